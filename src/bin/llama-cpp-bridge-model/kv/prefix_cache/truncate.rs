//! How a text that was evaluated is cut back to its beginning: just so, where the context holds it
//! from its first token on, and else to a checkpoint.

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::token::LlamaToken;

use super::Cache;
use crate::kv::cells::Cells;
use crate::kv::checkpoints;

impl Cache {
    /// Cuts a place back to its first tokens. Returns how many it has then: 0 if it cannot be cut
    /// there.
    pub(crate) fn cut(&mut self, context: &mut LlamaContext<'_>, at: usize, count: usize) -> usize {
        let place = &self.cells.places[at];
        let possible = self.can_cut(context, at, count)
            || self
                .checkpoints
                .restore(context, at as i32, &place.tokens()[..count]);
        if !possible {
            self.cells.clear(context, at);
            return 0;
        }
        self.cells.cut(context, at, count)
    }

    /// Makes the first tokens of a place those of another one as well. Returns how many that has
    /// then: 0 if the place cannot be cut there.
    pub(crate) fn copy(
        &mut self,
        context: &mut LlamaContext<'_>,
        from: usize,
        to: usize,
        count: usize,
    ) -> usize {
        let can_cut = self.can_cut(context, from, count);
        self.cells.copy(context, from, to, count);
        let place = &self.cells.places[to];
        let possible = match can_cut {
            true if self.checkpoints.needed() => checkpoints::separate(context, to as i32),
            true => true,
            false => self
                .checkpoints
                .restore(context, to as i32, &place.tokens()),
        };
        if !possible {
            self.cells.clear(context, to);
        }
        self.cells.places[to].len()
    }

    /// How many of so many first tokens of a place can be had from it.
    pub(crate) fn usable(&self, context: &LlamaContext<'_>, at: usize, same: usize) -> usize {
        if self.can_cut(context, at, same) {
            return same;
        }
        let place = &self.cells.places[at];
        self.checkpoints.longest(&place.tokens()[..same])
    }

    /// Whether the first tokens of a place can be had from it without a checkpoint.
    fn can_cut(&self, context: &LlamaContext<'_>, at: usize, count: usize) -> bool {
        count == self.cells.places[at].len() || Cells::whole(context, at as i32)
    }

    /// How many of these tokens but the last another text begins with.
    pub(crate) fn parting(&self, tokens: &[LlamaToken]) -> usize {
        let wanted = &tokens[..tokens.len().saturating_sub(1)];
        let placed = self.cells.places.iter().map(|place| place.common(wanted));
        placed.max().unwrap_or(0).max(self.shelf.common(wanted))
    }

    /// Takes a checkpoint of what a place holds.
    pub(crate) fn mark(&mut self, context: &LlamaContext<'_>, place: i32) {
        let tokens = self.cells.places[place as usize].tokens();
        self.checkpoints.take(context, place, tokens);
    }

    /// Whether it needs checkpoints to be cut.
    pub(crate) fn needs_checkpoints(&self) -> bool {
        self.checkpoints.needed()
    }

    /// Whether a text gets another checkpoint, so many tokens after the last one.
    pub(crate) fn is_mark_due(&self, since: usize) -> bool {
        self.checkpoints.due(since)
    }
}
