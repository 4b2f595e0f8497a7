//! What the options of sampling take: one table for the command lines of the bridge and of llambo,
//! for the fields of GENERATE, and for the tests that read the manual pages.

use crate::shared::settings::Sampling;

/// Largest context, in tokens, that is ever asked of llama.cpp: the figure in a model file has no
/// bound, and memory is taken in proportion.
pub const MAX_CONTEXT: u32 = 1 << 20;

/// What an option of sampling takes.
pub struct Limit {
    /// Its name as a field of GENERATE.
    pub field: &'static str,
    /// Its name as a long option, without the hyphens.
    pub option: &'static str,
    /// The least that it takes.
    pub low: f64,
    /// The most.
    pub high: f64,
    /// Whether it takes whole numbers only.
    pub whole: bool,
}

/// Tokens of an answer; -1 is until the context is full.
pub const MAX_TOKENS: Limit = whole("max_tokens", "max-tokens", -1, MAX_CONTEXT as i64);
/// 0 is greedy.
pub const TEMPERATURE: Limit = decimal("temperature", "temp", 0.0, 1000.0);
/// 0 is off.
pub const TOP_K: Limit = whole("top_k", "top-k", 0, i32::MAX as i64);
/// 1 is off.
pub const TOP_P: Limit = decimal("top_p", "top-p", 0.0, 1.0);
/// 0 is off.
pub const MIN_P: Limit = decimal("min_p", "min-p", 0.0, 1.0);
/// 1 is off. llama.cpp divides by it.
pub const REPEAT_PENALTY: Limit = decimal("repeat_penalty", "repeat-penalty", 0.001, 1000.0);
/// Tokens; 0 is off, -1 the whole context.
pub const REPEAT_LAST_N: Limit = whole("repeat_last_n", "repeat-last-n", -1, MAX_CONTEXT as i64);
/// 0 is off.
pub const PRESENCE_PENALTY: Limit = decimal("presence_penalty", "presence-penalty", -2.0, 2.0);
/// 0 is off.
pub const FREQUENCY_PENALTY: Limit = decimal("frequency_penalty", "frequency-penalty", -2.0, 2.0);
/// -1 is a random one; the field of GENERATE is left out for that.
pub const SEED: Limit = whole("seed", "seed", -1, u32::MAX as i64);
/// The field of GENERATE.
pub const SEED_FIELD: Limit = Limit { low: 0.0, ..SEED };

/// All of them, in the order of the manual pages.
pub const ALL: [&Limit; 10] = [
    &MAX_TOKENS,
    &TEMPERATURE,
    &TOP_K,
    &TOP_P,
    &MIN_P,
    &REPEAT_PENALTY,
    &REPEAT_LAST_N,
    &PRESENCE_PENALTY,
    &FREQUENCY_PENALTY,
    &SEED,
];

/// Sets a member of [`Sampling`] to a number that its [`Limit`] allows.
type Setter = fn(&mut Sampling, f64);

/// Those that are members of [`Sampling`], and how each is set.
pub const SAMPLING: [(&Limit, Setter); 8] = [
    (&TEMPERATURE, |s, number| s.temperature = number as f32),
    (&TOP_K, |s, number| s.top_k = number as i32),
    (&TOP_P, |s, number| s.top_p = number as f32),
    (&MIN_P, |s, number| s.min_p = number as f32),
    (&REPEAT_PENALTY, |s, number| {
        s.repeat_penalty = number as f32
    }),
    (&REPEAT_LAST_N, |s, number| s.repeat_last_n = number as i32),
    (&PRESENCE_PENALTY, |s, number| {
        s.presence_penalty = number as f32
    }),
    (&FREQUENCY_PENALTY, |s, number| {
        s.frequency_penalty = number as f32
    }),
];

/// The limits of an option that takes whole numbers.
pub const fn whole(field: &'static str, option: &'static str, low: i64, high: i64) -> Limit {
    let whole = true;
    let (low, high) = (low as f64, high as f64);
    Limit {
        field,
        option,
        low,
        high,
        whole,
    }
}

/// The limits of an option that takes decimals, too.
pub const fn decimal(field: &'static str, option: &'static str, low: f64, high: f64) -> Limit {
    let whole = false;
    Limit {
        field,
        option,
        low,
        high,
        whole,
    }
}

impl Limit {
    /// Whether a number is one that it takes. NaN is none.
    pub fn allows(&self, number: f64) -> bool {
        number >= self.low && number <= self.high && (!self.whole || number.fract() == 0.0)
    }

    /// The number that is written so, if it is one that it takes. A whole number is written without
    /// a decimal point or an exponent.
    pub fn parse(&self, text: &str) -> Option<f64> {
        let number = if self.whole {
            text.parse::<i64>().ok()? as f64
        } else {
            text.parse().ok()?
        };
        self.allows(number).then_some(number)
    }

    /// What it takes, for a message: `a whole number from -1 to 1048576`.
    pub fn takes(&self) -> String {
        let kind = if self.whole { "whole number" } else { "number" };
        format!("a {kind} from {} to {}", self.low, self.high)
    }
}
