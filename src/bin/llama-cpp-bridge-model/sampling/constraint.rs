//! A grammar that the tokens of an answer must follow: llama.cpp applies it, under limits of time.

use std::time::Duration;

use llama_cpp_2::GrammarError;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;

use crate::sampling::token_index::{Group, Initials};
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::grammar_check;
use llama_cpp_bridge::sys;
use llama_cpp_bridge::sys::log::{ERROR_MARK, OTHER_MARK};

/// The start rule of a grammar.
const ROOT: &str = "root";

/// Processor time that llama.cpp may take to check one token or the whole vocabulary against a
/// grammar. Ordinary grammars take a few milliseconds; with an ambiguous one, each token can double
/// the time, so that it is no use waiting longer.
const STEP_LIMIT: Duration = Duration::from_secs(1);

/// How long one call may take before the process aborts: nothing else interrupts llama.cpp. A token
/// of many characters can double the work within one call.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// The prefix of llama.cpp's errors about a grammar, which is of no use to a user.
const PARSER_PREFIX: &str = "parse: error parsing grammar: ";

/// What every token of an answer must follow.
pub(super) struct Constraint {
    /// The field of the request that it comes from.
    field: &'static str,
    sampler: LlamaSampler,
    /// Whether it may name tokens, and not only characters.
    names_tokens: bool,
}

impl Constraint {
    /// Compiles a grammar, the text of this field of the request.
    ///
    /// # Errors
    /// `bad_request` with what is wrong with it.
    pub(super) fn new(
        model: &LlamaModel,
        field: &'static str,
        grammar: &str,
    ) -> Result<Self, Failure> {
        let unusable = |reason: &str| {
            Failure::bad_request(format!("Field '{field}' cannot be used: {reason}"))
        };
        grammar_check::check(grammar, ROOT).map_err(|reason| unusable(&reason))?;
        let compile = || LlamaSampler::grammar(model, grammar, ROOT);
        let (compiled, log) = sys::watched_call::capture_errors(|| {
            sys::watched_call::abort_after(CALL_LIMIT, compile)
        });
        match compiled {
            Ok(sampler) => Ok(Self {
                field,
                sampler,
                names_tokens: grammar.contains('<'),
            }),
            Err(GrammarError::NullGrammar) => Err(unusable(&reason(&log))),
            Err(other) => Err(unusable(&other.to_string())),
        }
    }

    /// Whether this token can be next.
    ///
    /// # Errors
    /// `bad_request` where that takes too long.
    pub(super) fn allows(&mut self, token: LlamaToken) -> Result<bool, Failure> {
        let mut one = LlamaTokenDataArray::new(vec![LlamaTokenData::new(token, 1.0, 0.0)], false);
        self.mask(&mut one)?;
        Ok(one.data[0].logit() != f32::NEG_INFINITY)
    }

    /// The tokens of which some can be next, by the character that they begin with: each character
    /// is checked once, and not for each of its tokens. After a part of a character none of a group
    /// can be next, as no ASCII character continues it.
    ///
    /// # Errors
    /// `bad_request` where that takes too long.
    pub(super) fn candidates<'l>(
        &mut self,
        initials: &'l Initials,
        after_part: bool,
    ) -> Result<impl Iterator<Item = &'l LlamaToken> + use<'l>, Failure> {
        let alone = initials.groups.iter().filter_map(|group| group.alone);
        let ask = |token| LlamaTokenData::new(token, 0.0, 0.0);
        let mut asked = LlamaTokenDataArray::new(alone.map(ask).collect(), false);
        if after_part {
            asked.data.clear();
        } else if !self.names_tokens {
            self.mask(&mut asked)?;
            asked.data.retain(|d| d.logit() != f32::NEG_INFINITY);
        }
        let can_begin =
            move |group: &&Group| asked.data.iter().any(|d| Some(d.id()) == group.alone);
        let groups = initials.groups.iter().filter(can_begin);
        Ok(groups
            .flat_map(|group| &group.tokens)
            .chain(&initials.others))
    }

    /// Sets the logits of the tokens that cannot be next to negative infinity.
    ///
    /// # Errors
    /// `bad_request` where that takes too long.
    pub(super) fn mask(&mut self, tokens: &mut LlamaTokenDataArray) -> Result<(), Failure> {
        self.limited(|sampler| sampler.apply(tokens))
    }

    /// Goes on after this token, which must be one that can be next.
    ///
    /// # Errors
    /// `bad_request` where that takes too long, `internal` if llama.cpp fails, which it does when it
    /// runs out of memory.
    pub(super) fn accept(&mut self, token: LlamaToken) -> Result<(), Failure> {
        let accepted = self.limited(|sampler| sampler.try_accept(token))?;
        accepted.map_err(|_| {
            let message = format!("llama.cpp can no longer follow the field '{}'", self.field);
            Failure::new(Code::Internal, message)
        })
    }

    fn limited<T>(&mut self, work: impl FnOnce(&mut LlamaSampler) -> T) -> Result<T, Failure> {
        let sampler = &mut self.sampler;
        let work = || sys::watched_call::abort_after(CALL_LIMIT, || work(sampler));
        within(STEP_LIMIT, work).ok_or_else(|| {
            Failure::bad_request(format!(
                "Field '{}' is too ambiguous: one token took more than {} s; \
                 factor out common prefixes",
                self.field,
                STEP_LIMIT.as_secs()
            ))
        })
    }
}

/// What comes of `work`; `None` if it took more processor time than this.
fn within<T>(limit: Duration, work: impl FnOnce() -> T) -> Option<T> {
    let start = sys::time::processor_time();
    let result = work();
    let taken = sys::time::processor_time() - start;
    (taken <= limit).then_some(result)
}

/// Why llama.cpp rejected a grammar: the first line that it logged, as the next ones are more
/// general, or the rest of the grammar.
fn reason(log: &str) -> String {
    let line = log.lines().find(|line| !line.trim().is_empty());
    let Some(line) = line else {
        return "llama.cpp rejected it (no reason given)".to_string();
    };
    let line = line
        .trim_start_matches(ERROR_MARK)
        .trim_start_matches(OTHER_MARK);
    let line = line.strip_prefix(PARSER_PREFIX).unwrap_or(line).trim_end();
    match line {
        "std::bad_alloc" => "there is not enough memory for it".to_string(),
        line if line.ends_with(" at") => format!("{line} its end"),
        line => line.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::Duration;

    use super::within;

    #[test]
    fn what_takes_longer_than_its_limit_has_no_result() {
        let work = || (0..1_000_000_u64).fold(0, |sum, number| black_box(sum ^ number));
        assert!(within(Duration::from_secs(3600), work).is_some());
        assert_eq!(within(Duration::ZERO, work), None);
    }
}
