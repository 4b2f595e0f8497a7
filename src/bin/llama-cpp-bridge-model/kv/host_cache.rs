//! Evaluated texts that no longer take cells of the context: their state in memory, from where it
//! is copied back in a moment. In the context they would slow down all others, whose attention
//! covers every cell up to the last one in use.

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::session::{LlamaStateSeqFlags, SeqState};
use llama_cpp_2::token::LlamaToken;

use crate::kv::cells::{SeqId, common_prefix};
use crate::kv::checkpoints::Checkpoints;

/// Bytes of all states together.
const MAX_BYTES: usize = 256 << 20;

/// Shorter texts are not worth it, and a prompt must share as many tokens with one to use it.
const MIN_TOKENS: usize = 16;

/// Evaluated texts.
#[derive(Default)]
pub(super) struct HostCache {
    /// The latest is the last.
    prompts: Vec<ParkedPrompt>,
}

/// An evaluated text.
pub(super) struct ParkedPrompt {
    pub(super) tokens: Vec<LlamaToken>,
    /// How many of them were a prompt.
    pub(super) n_prompt: usize,
    /// Whether it can be truncated at any token.
    can_truncate: bool,
    state: SeqState,
}

impl ParkedPrompt {
    /// Copies the state of a sequence that holds these tokens out of the context. `None` if that is
    /// not worth it or cannot be done.
    pub(super) fn new(
        context: &LlamaContext<'_>,
        seq: SeqId,
        tokens: &[LlamaToken],
        n_prompt: usize,
        can_truncate: bool,
    ) -> Option<Self> {
        let flags = LlamaStateSeqFlags::empty();
        // One that is too large would be copied in vain, and push all others out.
        if context.state_seq_get_size_ext(seq.raw(), flags) > MAX_BYTES {
            return None;
        }
        let state = context.state_seq_get(seq.raw(), flags).ok()?;
        Some(Self {
            tokens: tokens.to_vec(),
            n_prompt,
            can_truncate,
            state,
        })
    }

    /// Copies the state into an empty sequence. `false` if the context does not take it.
    pub(super) fn restore(&self, context: &mut LlamaContext<'_>, seq: SeqId) -> bool {
        context.state_seq_set(&self.state, seq.raw()).is_ok()
    }
}

impl HostCache {
    /// Whether a text of `n_tokens` is worth keeping.
    pub(super) fn wants(n_tokens: usize) -> bool {
        n_tokens >= MIN_TOKENS
    }

    /// Adds a text. What a longer one can be truncated to is dropped, and so are the oldest ones
    /// until all fit.
    pub(super) fn put(&mut self, new: ParkedPrompt) {
        let covers = |long: &ParkedPrompt, short: &ParkedPrompt| {
            long.can_truncate && long.tokens.starts_with(&short.tokens)
        };
        let longer = self.prompts.iter().position(|old| covers(old, &new));
        let new = longer.map_or(new, |index| self.prompts.remove(index));
        self.prompts.retain(|old| !covers(&new, old));
        self.prompts.push(new);
        let mut bytes: usize = self.prompts.iter().map(|p| p.state.byte_len()).sum();
        while bytes > MAX_BYTES {
            bytes -= self.prompts.remove(0).state.byte_len();
        }
    }

    /// The index of the text from which most of these tokens can be had, and how many; `None` if
    /// they are too few to be worth it.
    pub(super) fn find(
        &self,
        wanted: &[LlamaToken],
        checkpoints: &Checkpoints,
    ) -> Option<(usize, usize)> {
        let usable = |prompt: &ParkedPrompt| {
            let common = common_prefix(&prompt.tokens, wanted);
            if common < prompt.tokens.len() && !prompt.can_truncate {
                return checkpoints.longest(&wanted[..common]);
            }
            common
        };
        let prompts = self.prompts.iter().enumerate();
        prompts
            .map(|(index, prompt)| (index, usable(prompt)))
            .filter(|(_, n_cached)| *n_cached >= MIN_TOKENS)
            .max_by_key(|(_, n_cached)| *n_cached)
    }

    /// The index of the latest text.
    pub(super) fn last(&self) -> Option<usize> {
        self.prompts.len().checked_sub(1)
    }

    /// The longest prefix that a text has in common with these tokens, whether it can be truncated
    /// there or not.
    pub(super) fn common_prefix(&self, wanted: &[LlamaToken]) -> usize {
        let prompts = self.prompts.iter();
        let common = prompts.map(|prompt| common_prefix(&prompt.tokens, wanted));
        common.max().unwrap_or(0)
    }

    /// Takes a text out, by its index.
    pub(super) fn take(&mut self, index: usize) -> ParkedPrompt {
        self.prompts.remove(index)
    }
}
