//! A grammar at work: llama.cpp follows it, and is watched while it does.

use std::time::Duration;

use llama_cpp_2::GrammarError;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;

use crate::sampling::grammar_check;
use crate::sampling::token_index::{Group, Initials};
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::sys;
use llama_cpp_bridge::sys::log::{ERROR_MARK, OTHER_MARK};

/// The rule of a grammar that it starts with.
const ROOT: &str = "root";

/// Processor time that llama.cpp may take to hold a grammar against one token or all of the
/// vocabulary. Ordinary grammars take some milliseconds; with one that is ambiguous, each token can
/// double the time, so that there is no use in waiting for longer.
const STEP_LIMIT: Duration = Duration::from_secs(1);

/// How long one call may take before the process is ended: nothing else interrupts llama.cpp. A
/// token of many letters can double the work within one call.
const OVERDUE: Duration = Duration::from_secs(10);

/// Stands before what llama.cpp says of a grammar, for its own developers.
const PARSER_PREFIX: &str = "parse: error parsing grammar: ";

/// What every token of an answer must follow.
pub(crate) struct Constraint {
    /// The field of the request that it comes from.
    field: &'static str,
    sampler: LlamaSampler,
    /// Whether it may name tokens, and not only say which characters they have.
    names_tokens: bool,
}

impl Constraint {
    /// Compiles a grammar, the text of this field of the request.
    ///
    /// # Errors
    /// `bad_request` with what is wrong with it.
    pub(crate) fn new(
        model: &LlamaModel,
        field: &'static str,
        grammar: &str,
    ) -> Result<Self, Failure> {
        let unusable = |reason: &str| {
            Failure::bad_request(format!("Field '{field}' cannot be used: {reason}"))
        };
        grammar_check::check(grammar, ROOT).map_err(|reason| unusable(&reason))?;
        let compile = || LlamaSampler::grammar(model, grammar, ROOT);
        let (compiled, words) =
            sys::watched_call::capture_errors(|| sys::watched_call::abort_after(OVERDUE, compile));
        match compiled {
            Ok(sampler) => Ok(Self {
                field,
                sampler,
                names_tokens: grammar.contains('<'),
            }),
            Err(GrammarError::NullGrammar) => Err(unusable(&reason(&words))),
            Err(other) => Err(unusable(&other.to_string())),
        }
    }

    /// Whether this can be the next token.
    ///
    /// # Errors
    /// `bad_request` where that takes too long.
    pub(crate) fn allows(&mut self, token: LlamaToken) -> Result<bool, Failure> {
        let mut one = LlamaTokenDataArray::new(vec![LlamaTokenData::new(token, 1.0, 0.0)], false);
        self.restrict(&mut one)?;
        Ok(one.data[0].logit() != f32::NEG_INFINITY)
    }

    /// The tokens of which some can be next: by the character that they begin with, which is
    /// asked for once and not for each of them. None of a group can be behind a part of a
    /// character, which no ASCII character continues.
    ///
    /// # Errors
    /// `bad_request` where that takes too long.
    pub(crate) fn within<'l>(
        &mut self,
        initials: &'l Initials,
        behind_part: bool,
    ) -> Result<impl Iterator<Item = &'l LlamaToken> + use<'l>, Failure> {
        let alone = initials.groups.iter().filter_map(|group| group.alone);
        let ask = |token| LlamaTokenData::new(token, 0.0, 0.0);
        let mut asked = LlamaTokenDataArray::new(alone.map(ask).collect(), false);
        if behind_part {
            asked.data.clear();
        } else if !self.names_tokens {
            self.restrict(&mut asked)?;
            asked.data.retain(|d| d.logit() != f32::NEG_INFINITY);
        }
        let can_begin =
            move |group: &&Group| asked.data.iter().any(|d| Some(d.id()) == group.alone);
        let groups = initials.groups.iter().filter(can_begin);
        Ok(groups
            .flat_map(|group| &group.tokens)
            .chain(&initials.others))
    }

    /// Takes their chance from the tokens that cannot be the next.
    ///
    /// # Errors
    /// `bad_request` where that takes too long.
    pub(crate) fn restrict(&mut self, tokens: &mut LlamaTokenDataArray) -> Result<(), Failure> {
        self.watched(|sampler| sampler.apply(tokens))
    }

    /// Goes on behind this token, which must be one that can be the next.
    ///
    /// # Errors
    /// `bad_request` where that takes too long, `internal` if llama.cpp fails, which it does without
    /// memory.
    pub(crate) fn accept(&mut self, token: LlamaToken) -> Result<(), Failure> {
        let accepted = self.watched(|sampler| sampler.try_accept(token))?;
        accepted.map_err(|_| {
            let message = format!(
                "llama.cpp cannot follow the field '{}' any further",
                self.field
            );
            Failure::new(Code::Internal, message)
        })
    }

    fn watched<T>(&mut self, work: impl FnOnce(&mut LlamaSampler) -> T) -> Result<T, Failure> {
        let start = sys::time::processor_time();
        let result = sys::watched_call::abort_after(OVERDUE, || work(&mut self.sampler));
        if sys::time::processor_time() - start <= STEP_LIMIT {
            return Ok(result);
        }
        Err(Failure::bad_request(format!(
            "Field '{}' cannot be used any further: it is so ambiguous that one token took more \
             than {} s; choices that begin alike can be joined",
            self.field,
            STEP_LIMIT.as_secs()
        )))
    }
}

/// Why llama.cpp took no grammar, by what it wrote: the first line, as those that follow are ever
/// more general, or the rest of the grammar.
fn reason(words: &str) -> String {
    let line = words.lines().find(|line| !line.trim().is_empty());
    let Some(line) = line else {
        return "llama.cpp does not take it and does not say why".to_string();
    };
    let line = line
        .trim_start_matches(ERROR_MARK)
        .trim_start_matches(OTHER_MARK);
    let line = line.strip_prefix(PARSER_PREFIX).unwrap_or(line).trim_end();
    match line {
        "std::bad_alloc" => "it takes more memory than there is".to_string(),
        line if line.ends_with(" at") => format!("{line} its end"),
        line => line.to_string(),
    }
}
