//! How a text that was evaluated is truncated: at any token, where the context holds it from its
//! first token on, and else at a checkpoint.

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::token::LlamaToken;

use super::PrefixCache;
use crate::kv::cells::{Cells, SeqId, common_prefix};
use crate::kv::checkpoints;

impl PrefixCache {
    /// Truncates a sequence to its first `n_tokens`. Returns how many it has then: 0 if it cannot be
    /// truncated there.
    pub(super) fn truncate(
        &mut self,
        context: &mut LlamaContext<'_>,
        seq: SeqId,
        n_tokens: usize,
    ) -> usize {
        let possible = self.can_truncate(context, seq, n_tokens) || {
            let tokens = self.cells.get(seq).tokens();
            self.checkpoints.restore(context, seq, &tokens[..n_tokens])
        };
        if !possible {
            self.cells.clear(context, seq);
            return 0;
        }
        self.cells.truncate(context, seq, n_tokens)
    }

    /// Makes the first `n_tokens` of a sequence those of another one as well. Returns how many the
    /// other one has then: 0 if the sequence cannot be truncated there.
    pub(super) fn copy(
        &mut self,
        context: &mut LlamaContext<'_>,
        from: SeqId,
        to: SeqId,
        n_tokens: usize,
    ) -> usize {
        let can_truncate = self.can_truncate(context, from, n_tokens);
        self.cells.copy(context, from, to, n_tokens);
        let possible = match can_truncate {
            true if self.checkpoints.needed() => checkpoints::separate(context, to),
            true => true,
            false => {
                let tokens = self.cells.get(to).tokens();
                self.checkpoints.restore(context, to, tokens)
            }
        };
        if !possible {
            self.cells.clear(context, to);
        }
        self.cells.get(to).len()
    }

    /// How many of its first `common` tokens can be had from a sequence.
    pub(super) fn usable(&self, context: &LlamaContext<'_>, seq: SeqId, common: usize) -> usize {
        if self.can_truncate(context, seq, common) {
            return common;
        }
        self.checkpoints
            .longest(&self.cells.get(seq).tokens()[..common])
    }

    /// Whether a sequence can be truncated there without a checkpoint.
    fn can_truncate(&self, context: &LlamaContext<'_>, seq: SeqId, n_tokens: usize) -> bool {
        n_tokens == self.cells.get(seq).len() || Cells::is_complete(context, seq)
    }

    /// The longest prefix of these tokens but the last that another text has as well.
    pub(super) fn divergence(&self, tokens: &[LlamaToken]) -> usize {
        let wanted = &tokens[..tokens.len().saturating_sub(1)];
        let ids = self.cells.ids();
        let common = ids.map(|seq| common_prefix(self.cells.get(seq).tokens(), wanted));
        common
            .max()
            .unwrap_or(0)
            .max(self.parked.common_prefix(wanted))
    }

    /// Takes a checkpoint of what a sequence holds.
    pub fn checkpoint(&mut self, context: &LlamaContext<'_>, seq: SeqId) {
        let tokens = self.cells.get(seq).tokens();
        self.checkpoints.take(context, seq, tokens);
    }

    /// Whether it needs checkpoints to be truncated.
    pub fn needs_checkpoints(&self) -> bool {
        self.checkpoints.needed()
    }

    /// Whether another checkpoint of a text is due, `since` tokens after the last one.
    pub fn checkpoint_due(&self, since: usize) -> bool {
        self.checkpoints.due(since)
    }
}
