//! The likeliest tokens, found in one look at each logit: most samplers leave all others out
//! anyway, and to hand them the whole vocabulary takes longer than all the rest of a token.

use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;

use llama_cpp_bridge::shared::failure::{Code, Failure};

/// Logits of which the highest is noted. The fewer there are in a block, the fewer tokens come
/// with those that were asked for, and the longer is the list of blocks.
const BLOCK: usize = 64;

/// Logits that the processor compares at a time.
const LANES: usize = 16;

/// As many tokens as there are.
pub(crate) const ALL: usize = usize::MAX;

/// The logits of all tokens at one place of a batch.
pub(crate) struct Logits<'context> {
    all: &'context [f32],
    /// The highest of each block.
    peaks: Vec<f32>,
}

impl<'context> Logits<'context> {
    /// Looks through logits. `None` if no token can be chosen by them, NaN or positive infinity
    /// being among them, or nothing but negative infinity: llama.cpp would give an empty answer.
    pub(crate) fn new(all: &'context [f32]) -> Option<Self> {
        let mut finite = true;
        let mut peaks = Vec::with_capacity(all.len().div_ceil(BLOCK));
        for block in all.chunks(BLOCK) {
            let (peak, fine) = look_through(block);
            peaks.push(peak);
            finite &= fine;
        }
        let any = peaks.iter().any(|peak| *peak > f32::NEG_INFINITY);
        (finite && any).then_some(Self { all, peaks })
    }

    /// Lists at least the `count` likeliest tokens, in the order of the vocabulary. Every token
    /// that is not listed is less likely than all that are.
    pub(crate) fn likeliest(&self, count: usize, list: &mut Vec<LlamaTokenData>) {
        list.clear();
        let least = self.least(count);
        let blocks = self.all.chunks(BLOCK).zip(&self.peaks);
        for (number, (block, _)) in blocks.enumerate().filter(|(_, (_, peak))| **peak >= least) {
            for (at, logit) in block
                .iter()
                .enumerate()
                .filter(|(_, logit)| **logit >= least)
            {
                let token = LlamaToken::new((number * BLOCK + at) as i32);
                list.push(LlamaTokenData::new(token, *logit, 0.0));
            }
        }
    }

    /// How likely these tokens are.
    pub(crate) fn of<'t>(
        &self,
        tokens: impl Iterator<Item = &'t LlamaToken>,
        list: &mut Vec<LlamaTokenData>,
    ) {
        let with_logit = |token: &LlamaToken| {
            let logit = self.all[token.0 as usize];
            LlamaTokenData::new(*token, logit, 0.0)
        };
        list.clear();
        list.extend(tokens.map(with_logit));
    }

    /// A logit that at least `count` tokens reach: so many blocks have one.
    fn least(&self, count: usize) -> f32 {
        if count == 0 || count > self.peaks.len() {
            return f32::NEG_INFINITY;
        }
        let mut peaks = self.peaks.clone();
        let (_, least, _) = peaks.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
        *least
    }
}

/// Checks that these are numbers of which one can be chosen.
///
/// # Errors
/// NaN or positive infinity among them, or nothing but negative infinity.
pub(crate) fn check_logits(logits: &[f32]) -> Result<(), Failure> {
    Logits::new(logits).map(|_| ()).ok_or_else(not_finite)
}

/// The failure of a request for which the model computes nonsense.
pub(crate) fn not_finite() -> Failure {
    let message = "The model computed values that are not finite numbers";
    Failure::new(Code::Internal, message)
}

/// Whether two of these tokens are equally likely.
pub(crate) fn tied(list: &[LlamaTokenData]) -> bool {
    let mut logits: Vec<f32> = list.iter().map(LlamaTokenData::logit).collect();
    logits.sort_unstable_by(f32::total_cmp);
    logits.windows(2).any(|pair| pair[0] == pair[1])
}

/// The highest of some logits, and whether all are below infinity. Each lane is a value of its
/// own, so that the compiler may take all of them at a time.
fn look_through(block: &[f32]) -> (f32, bool) {
    let mut highest = [f32::NEG_INFINITY; LANES];
    let mut wrong = [0u32; LANES];
    let (whole, rest) = block.as_chunks::<LANES>();
    for logits in whole {
        for lane in 0..LANES {
            let logit = logits[lane];
            highest[lane] = if logit > highest[lane] {
                logit
            } else {
                highest[lane]
            };
            wrong[lane] |= u32::from(!below_infinity(logit));
        }
    }
    for (lane, logit) in rest.iter().enumerate() {
        highest[lane] = highest[lane].max(*logit);
        wrong[lane] |= u32::from(!below_infinity(*logit));
    }
    let peak = highest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    (peak, wrong == [0; LANES])
}

/// Not so infinity, and what is not a number.
fn below_infinity(logit: f32) -> bool {
    logit < f32::INFINITY
}
