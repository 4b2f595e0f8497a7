//! Checkpoints: of a text that is being evaluated, what cannot be had back by cutting its end off.
//! That is the window of layers that slide, or a recurrent state. With a checkpoint a text can be
//! cut to where it was taken, as long as the rest of what was evaluated is there.

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::session::{LlamaStateSeqFlags, SeqState};
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

/// Bytes of all checkpoints together: one takes 8 MB for Gemma 3 270M, 119 MB for 4B and 335 MB for
/// 12B, of which one is the least that is of use.
pub(crate) const LARGEST: usize = 512 << 20;

/// Checkpoints at the most, so that looking through them takes no time.
const MOST: usize = 256;

/// Checkpoints on the way of a text that fills the context.
const ON_THE_WAY: usize = 16;

/// Tokens between two of them at the least: about a chunk of a prompt.
const SPACING: usize = 512;

/// Tokens before the end of a prompt that its checkpoint is taken at, as llama-server does: the
/// last ones may become others when more text follows.
const BEFORE_THE_END: usize = 4;

/// A checkpoint where texts part must spare so many tokens: that many take one step.
const WORTH_A_STOP: usize = 64;

/// What part of a place's state a checkpoint holds.
const PART: LlamaStateSeqFlags = LlamaStateSeqFlags::PARTIAL_ONLY;

/// The checkpoints of a context.
pub(crate) struct Checkpoints {
    /// The one that was used last stands last.
    kept: Vec<Checkpoint>,
    /// Tokens between two on the way; `None` if the context can be cut without.
    spacing: Option<usize>,
}

struct Checkpoint {
    /// The beginning of a text, which was evaluated so far.
    tokens: Vec<LlamaToken>,
    state: SeqState,
    /// Whether it was of use already: then it may be again.
    used: bool,
}

/// Whether a context cannot be cut at any token: its cache has a window that slides, or a
/// recurrent state.
pub(crate) fn needed(model: &LlamaModel, context: &LlamaContext<'_>, swa_full: bool) -> bool {
    let size = |flags| context.state_seq_get_size_ext(0, flags);
    let slides = !swa_full && size(PART) < size(LlamaStateSeqFlags::empty());
    slides || model.is_recurrent() || model.is_hybrid()
}

/// Gives a place a window or a recurrent state of its own, where it shares that of another. In a
/// window that slides, shared cells would not become free again. `false` if there is no room.
pub(crate) fn separate(context: &mut LlamaContext<'_>, place: i32) -> bool {
    let own = context.state_seq_get(place, PART);
    own.is_ok_and(|state| context.state_seq_set(&state, place).is_ok())
}

impl Checkpoints {
    /// None yet, for a context of so many tokens.
    pub(crate) fn new(needed: bool, size: usize) -> Self {
        Self {
            kept: Vec::new(),
            spacing: needed.then(|| SPACING.max(size / ON_THE_WAY)),
        }
    }

    /// Whether the context needs any.
    pub(crate) fn needed(&self) -> bool {
        self.spacing.is_some()
    }

    /// Where the evaluation of a prompt has to stop, in ascending order, so that checkpoints can be
    /// taken: before its end, and where it parts from another text. The first `known` tokens need
    /// no evaluation.
    pub(crate) fn stops(&self, prompt: usize, known: usize, parts: usize) -> Vec<usize> {
        let end = prompt.saturating_sub(BEFORE_THE_END);
        let mut stops = Vec::new();
        if self.needed() && parts >= known + WORTH_A_STOP && parts < end {
            stops.push(parts);
        }
        if self.needed() && end > known {
            stops.push(end);
        }
        stops
    }

    /// Whether one is to be taken on the way, so many tokens after the last one.
    pub(crate) fn due(&self, since: usize) -> bool {
        self.spacing.is_some_and(|spacing| since >= spacing)
    }

    /// The most of these tokens, from the first one, that there is a checkpoint behind.
    pub(crate) fn longest(&self, tokens: &[LlamaToken]) -> usize {
        let of_these = self
            .kept
            .iter()
            .filter(|kept| tokens.starts_with(&kept.tokens));
        of_these.map(|kept| kept.tokens.len()).max().unwrap_or(0)
    }

    /// Takes one of a place that holds exactly these tokens, unless there is one.
    pub(crate) fn take(&mut self, context: &LlamaContext<'_>, place: i32, tokens: Vec<LlamaToken>) {
        if self.longest(&tokens) == tokens.len() {
            return;
        }
        self.thin(&tokens);
        let size = context.state_seq_get_size_ext(place, PART);
        if size > LARGEST {
            return;
        }
        while self.bytes() + size > LARGEST || self.kept.len() >= MOST {
            self.kept.remove(0);
        }
        if let Ok(state) = context.state_seq_get(place, PART) {
            self.kept.push(Checkpoint {
                tokens,
                state,
                used: false,
            });
        }
    }

    /// Puts the one behind exactly these tokens into a place. `false` if there is none, or the
    /// context does not take it: the place is then of no use.
    pub(crate) fn restore(
        &mut self,
        context: &mut LlamaContext<'_>,
        place: i32,
        tokens: &[LlamaToken],
    ) -> bool {
        let Some(at) = self.kept.iter().position(|kept| kept.tokens == tokens) else {
            return false;
        };
        let mut kept = self.kept.remove(at);
        let restored = context.state_seq_set(&kept.state, place).is_ok();
        kept.used |= restored;
        self.kept.push(kept);
        restored
    }

    /// Forgets all of them.
    pub(crate) fn clear(&mut self) {
        self.kept.clear();
    }

    /// Makes room for one behind these tokens: of those on the way to it that were of no use yet,
    /// the last stays, and of the others those that have some distance between them.
    fn thin(&mut self, tokens: &[LlamaToken]) {
        let on_the_way = |kept: &Checkpoint| !kept.used && tokens.starts_with(&kept.tokens);
        let before = self.kept.iter().filter(|kept| on_the_way(kept));
        let mut lengths: Vec<usize> = before.map(|kept| kept.tokens.len()).collect();
        lengths.sort_unstable();
        let spacing = self.spacing.unwrap_or(SPACING);
        let mut stay = Vec::from_iter(lengths.pop());
        let mut previous = 0;
        for length in lengths {
            if length - previous >= spacing {
                stay.push(length);
                previous = length;
            }
        }
        self.kept
            .retain(|kept| !on_the_way(kept) || stay.contains(&kept.tokens.len()));
    }

    fn bytes(&self) -> usize {
        self.kept.iter().map(|kept| kept.state.byte_len()).sum()
    }
}
