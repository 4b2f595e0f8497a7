//! Checkpoints: of a text that is being evaluated, what truncating it cannot bring back. That is the
//! sliding window of some layers, or a recurrent state. A text can be truncated to where a
//! checkpoint was taken, as long as the rest of what was evaluated is there.

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::session::{LlamaStateSeqFlags, SeqState};
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use crate::kv::cells::SeqId;

/// Bytes of all checkpoints together: one takes 8 MB for Gemma 3 270M, 119 MB for 4B and 335 MB for
/// 12B, and one is the least that is of use.
pub const MAX_CHECKPOINT_BYTES: usize = 512 << 20;

/// The most checkpoints that are kept, so that searching them takes no time.
const MAX_CHECKPOINTS: usize = 256;

/// Checkpoints in the course of a text that fills the context.
const PER_CONTEXT: usize = 16;

/// The fewest tokens between two of them: about a chunk of a prompt.
const MIN_SPACING: usize = 512;

/// How many tokens before the end of a prompt its checkpoint is taken, as llama-server does: the
/// last ones may become others when more text follows.
const BEFORE_END: usize = 4;

/// The fewest tokens that a checkpoint where texts diverge must save: as many take one step.
const MIN_SAVED: usize = 64;

/// Which part of a sequence's state a checkpoint holds.
const PART: LlamaStateSeqFlags = LlamaStateSeqFlags::PARTIAL_ONLY;

/// The checkpoints of a context.
pub(super) struct Checkpoints {
    /// The one that was used last is the last.
    kept: Vec<Checkpoint>,
    /// Tokens between two in the course of a text; `None` if the context can be truncated without.
    spacing: Option<usize>,
}

struct Checkpoint {
    /// The beginning of a text, up to where it was taken.
    tokens: Vec<LlamaToken>,
    state: SeqState,
    /// Whether it was restored before: then it may be again.
    used: bool,
}

/// Whether a context cannot be truncated at any token, as its cache has a sliding window or a
/// recurrent state.
pub fn needs_checkpoints(model: &LlamaModel, context: &LlamaContext<'_>, swa_full: bool) -> bool {
    let size = |flags| context.state_seq_get_size_ext(0, flags);
    let slides = !swa_full && size(PART) < size(LlamaStateSeqFlags::empty());
    slides || model.is_recurrent() || model.is_hybrid()
}

/// Gives a sequence a window or recurrent state of its own, where it shares that of another. In a
/// sliding window, shared cells would never be freed. `false` if there is no space for it.
pub(super) fn separate(context: &mut LlamaContext<'_>, seq: SeqId) -> bool {
    let own = context.state_seq_get(seq.raw(), PART);
    own.is_ok_and(|state| context.state_seq_set(&state, seq.raw()).is_ok())
}

impl Checkpoints {
    /// None yet, for a context of `n_ctx` tokens.
    pub(super) fn new(needed: bool, n_ctx: usize) -> Self {
        Self {
            kept: Vec::new(),
            spacing: needed.then(|| MIN_SPACING.max(n_ctx / PER_CONTEXT)),
        }
    }

    /// Whether the context needs any.
    pub(super) fn needed(&self) -> bool {
        self.spacing.is_some()
    }

    /// Where checkpoints of a prompt of `n_prompt` tokens have to be taken, in ascending order:
    /// before its end, and where it diverges from another text. The first `n_cached` tokens are not
    /// evaluated.
    pub(super) fn positions(
        &self,
        n_prompt: usize,
        n_cached: usize,
        diverges: usize,
    ) -> Vec<usize> {
        let end = n_prompt.saturating_sub(BEFORE_END);
        let mut positions = Vec::new();
        if self.needed() && diverges >= n_cached + MIN_SAVED && diverges < end {
            positions.push(diverges);
        }
        if self.needed() && end > n_cached {
            positions.push(end);
        }
        positions
    }

    /// Whether one is due in the course of a text, `since` tokens after the last one.
    pub(super) fn due(&self, since: usize) -> bool {
        self.spacing.is_some_and(|spacing| since >= spacing)
    }

    /// The length of the longest prefix of these tokens that has a checkpoint at its end.
    pub(super) fn longest(&self, tokens: &[LlamaToken]) -> usize {
        let of_these = self
            .kept
            .iter()
            .filter(|kept| tokens.starts_with(&kept.tokens));
        of_these.map(|kept| kept.tokens.len()).max().unwrap_or(0)
    }

    /// Takes one of a sequence that holds exactly these tokens, unless there is one.
    pub(super) fn take(&mut self, context: &LlamaContext<'_>, seq: SeqId, tokens: &[LlamaToken]) {
        if self.longest(tokens) == tokens.len() {
            return;
        }
        self.thin_out(tokens);
        let size = context.state_seq_get_size_ext(seq.raw(), PART);
        if size > MAX_CHECKPOINT_BYTES {
            return;
        }
        while self.bytes() + size > MAX_CHECKPOINT_BYTES || self.kept.len() >= MAX_CHECKPOINTS {
            self.kept.remove(0);
        }
        if let Ok(state) = context.state_seq_get(seq.raw(), PART) {
            self.kept.push(Checkpoint {
                tokens: tokens.to_vec(),
                state,
                used: false,
            });
        }
    }

    /// Restores the one at the end of exactly these tokens into a sequence. `false` if there is
    /// none, or the context does not take it: what the sequence holds is then of no use.
    pub(super) fn restore(
        &mut self,
        context: &mut LlamaContext<'_>,
        seq: SeqId,
        tokens: &[LlamaToken],
    ) -> bool {
        let Some(index) = self.kept.iter().position(|kept| kept.tokens == tokens) else {
            return false;
        };
        let mut kept = self.kept.remove(index);
        let restored = context.state_seq_set(&kept.state, seq.raw()).is_ok();
        kept.used |= restored;
        self.kept.push(kept);
        restored
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        self.kept.clear();
    }

    /// Before one is taken of these tokens: of their earlier checkpoints that were never used, only
    /// the last one stays, and of the others those that are far enough from each other.
    fn thin_out(&mut self, tokens: &[LlamaToken]) {
        let earlier = |kept: &Checkpoint| !kept.used && tokens.starts_with(&kept.tokens);
        let before = self.kept.iter().filter(|kept| earlier(kept));
        let mut lengths: Vec<usize> = before.map(|kept| kept.tokens.len()).collect();
        lengths.sort_unstable();
        let spacing = self.spacing.unwrap_or(MIN_SPACING);
        let mut stay = Vec::from_iter(lengths.pop());
        let mut previous = 0;
        for length in lengths {
            if length - previous >= spacing {
                stay.push(length);
                previous = length;
            }
        }
        self.kept
            .retain(|kept| !earlier(kept) || stay.contains(&kept.tokens.len()));
    }

    fn bytes(&self) -> usize {
        self.kept.iter().map(|kept| kept.state.byte_len()).sum()
    }
}
