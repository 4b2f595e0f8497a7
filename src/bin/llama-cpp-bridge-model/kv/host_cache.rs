//! Texts that were evaluated and take no cells of the context any more: their state in memory,
//! from where it is copied back in a moment. In the context they would slow down all others, whose
//! attention has to look at every cell up to the last one in use.

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::session::{LlamaStateSeqFlags, SeqState};
use llama_cpp_2::token::LlamaToken;

use crate::kv::checkpoints::Checkpoints;

/// Bytes of all states together.
const LARGEST: usize = 256 << 20;

/// Tokens of a text that is worth it, and that a prompt must share with one to make use of it.
const LEAST: usize = 16;

/// Evaluated texts.
#[derive(Default)]
pub(crate) struct HostCache {
    /// The one that was put here last stands last.
    states: Vec<ParkedPrompt>,
}

/// An evaluated text.
pub(crate) struct ParkedPrompt {
    pub(crate) tokens: Vec<LlamaToken>,
    /// How many of them were a prompt.
    pub(crate) prompt: usize,
    /// Whether its end can be cut off.
    whole: bool,
    state: SeqState,
}

impl ParkedPrompt {
    /// Takes the state of a place that holds these tokens out of the context; the place keeps it.
    /// `None` if that is not worth it or cannot be done.
    pub(crate) fn new(
        context: &LlamaContext<'_>,
        place: i32,
        tokens: Vec<LlamaToken>,
        prompt: usize,
        whole: bool,
    ) -> Option<Self> {
        let flags = LlamaStateSeqFlags::empty();
        // One that has no room here would be copied in vain, and push all others out.
        if context.state_seq_get_size_ext(place, flags) > LARGEST {
            return None;
        }
        let state = context.state_seq_get(place, flags);
        Some(Self {
            tokens,
            prompt,
            whole,
            state: state.ok()?,
        })
    }

    fn common(&self, wanted: &[LlamaToken]) -> usize {
        let pairs = self.tokens.iter().zip(wanted);
        pairs.take_while(|(a, b)| a == b).count()
    }

    /// Puts the state into an empty place. `false` if the context does not take it.
    pub(crate) fn restore(&self, context: &mut LlamaContext<'_>, place: i32) -> bool {
        context.state_seq_set(&self.state, place).is_ok()
    }
}

impl HostCache {
    /// Whether so many tokens are worth a place here.
    pub(crate) fn wants(tokens: usize) -> bool {
        tokens >= LEAST
    }

    /// Puts a text here. What a longer one can be cut back to is of no use beside it; the oldest
    /// make room.
    pub(crate) fn put(&mut self, new: ParkedPrompt) {
        let holds = |long: &ParkedPrompt, short: &ParkedPrompt| {
            long.whole && long.tokens.starts_with(&short.tokens)
        };
        let longer = self.states.iter().position(|old| holds(old, &new));
        let new = longer.map_or(new, |at| self.states.remove(at));
        self.states.retain(|old| !holds(&new, old));
        self.states.push(new);
        let mut bytes: usize = self.states.iter().map(|s| s.state.byte_len()).sum();
        while bytes > LARGEST {
            bytes -= self.states.remove(0).state.byte_len();
        }
    }

    /// The text that has most of these tokens in common with them, so that it can be cut there, and
    /// how many; not so few that it is not worth it.
    pub(crate) fn find(
        &self,
        wanted: &[LlamaToken],
        checkpoints: &Checkpoints,
    ) -> Option<(usize, usize)> {
        let usable = |text: &ParkedPrompt| {
            let same = text.common(wanted);
            if same < text.tokens.len() && !text.whole {
                return checkpoints.longest(&wanted[..same]);
            }
            same
        };
        let texts = self.states.iter().enumerate();
        texts
            .map(|(at, text)| (at, usable(text)))
            .filter(|(_, known)| *known >= LEAST)
            .max_by_key(|(_, known)| *known)
    }

    /// Where the text is that was put here last.
    pub(crate) fn last(&self) -> Option<usize> {
        self.states.len().checked_sub(1)
    }

    /// How many of these tokens a text begins with, whether it can be cut there or not.
    pub(crate) fn common(&self, wanted: &[LlamaToken]) -> usize {
        let texts = self.states.iter();
        texts.map(|text| text.common(wanted)).max().unwrap_or(0)
    }

    /// Takes a text out.
    pub(crate) fn take(&mut self, at: usize) -> ParkedPrompt {
        self.states.remove(at)
    }
}
