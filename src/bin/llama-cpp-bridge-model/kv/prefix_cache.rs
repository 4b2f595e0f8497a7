//! What the context holds that can be used again. What a request leaves behind stays in its place
//! until the cells or the place are needed, or somebody is alone, who would be slowed down by it;
//! then it goes to the shelf.

mod truncate;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::token::LlamaToken;

use crate::kv::cells::Cells;
use crate::kv::checkpoints::Checkpoints;
use crate::kv::host_cache::{HostCache, ParkedPrompt};

/// Everything that was evaluated and is still there.
pub(crate) struct Cache {
    cells: Cells,
    shelf: HostCache,
    checkpoints: Checkpoints,
}

/// Where the beginning of a prompt is to be had, and how many tokens of it.
#[derive(Clone, Copy)]
enum Source {
    Place(usize, usize),
    HostCache(usize, usize),
}

/// A place for a request.
pub(crate) struct Assignment {
    /// llama.cpp's number of the sequence.
    pub(crate) place: i32,
    /// How many tokens of the prompt it holds already.
    pub(crate) known: usize,
    /// Where the evaluation of the prompt has to stop for [`Cache::mark`], in ascending order.
    pub(crate) stops: Vec<usize>,
}

impl Cache {
    /// The empty cache of a context of this many cells, for so many requests at a time; it may
    /// need checkpoints to be cut.
    pub(crate) fn new(places: u32, size: usize, checkpoints: bool) -> Self {
        Self {
            cells: Cells::new(places, size),
            shelf: HostCache::default(),
            checkpoints: Checkpoints::new(checkpoints, size),
        }
    }

    /// Cells that nobody uses.
    pub(crate) fn free(&self) -> usize {
        self.cells.free()
    }

    /// Cells that are free once nothing is kept but what requests under way use.
    pub(crate) fn free_at_most(&self) -> usize {
        self.cells.free_at_most()
    }

    /// Takes a place for these tokens, with as much of them as is to be had anywhere, unless
    /// `reuse` is false. Of the kept ones the least recently used makes room. `None` if all are
    /// taken.
    pub(crate) fn take(
        &mut self,
        context: &mut LlamaContext<'_>,
        tokens: &[LlamaToken],
        reuse: bool,
    ) -> Option<Assignment> {
        let source = self.source(context, tokens, reuse);
        let parts = match reuse && self.checkpoints.needed() {
            true => self.parting(tokens),
            false => 0,
        };
        let (at, known) = match source {
            None => (self.vacate(context, None)?, 0),
            Some(Source::Place(from, known)) => {
                self.take_from_place(context, tokens, from, known)?
            }
            Some(Source::HostCache(from, known)) => {
                // Making room may put another text on the shelf, so this one comes off first.
                let text = self.shelf.take(from);
                let Some(at) = self.vacate(context, None) else {
                    self.shelf.put(text);
                    return None;
                };
                (at, self.take_from_shelf(context, at, text, known))
            }
        };
        if known == 0 {
            self.cells.clear(context, at);
        }
        self.cells.touch(at, true);
        self.cells.places[at].prompt = tokens.len();
        Some(Assignment {
            place: at as i32,
            known,
            stops: self.checkpoints.stops(tokens.len(), known, parts),
        })
    }

    /// Takes a place for one who is alone: as [`take`](Self::take), but nothing else is left in
    /// the context, and its cells are the first ones.
    pub(crate) fn take_alone(
        &mut self,
        context: &mut LlamaContext<'_>,
        tokens: &[LlamaToken],
        reuse: bool,
    ) -> Option<Assignment> {
        let source = self.source(context, tokens, reuse);
        if self.cells.is_mixed() || !matches!(source, Some(Source::Place(..))) {
            self.shelve_kept(context);
        }
        self.take(context, tokens, reuse)
    }

    /// Leaves nothing else in the context for one who has become alone, and moves it to the first
    /// cells if it may lie far behind them. Returns how many of its tokens its place then holds.
    pub(crate) fn settle(&mut self, context: &mut LlamaContext<'_>, place: i32) -> usize {
        let at = place as usize;
        self.shelve_kept(context);
        if self.cells.is_sparse()
            && let Some(own) = self.saved(context, at)
        {
            self.cells.clear(context, at);
            if own.restore(context, place) {
                self.cells.hold(at, &own.tokens);
            }
        }
        self.cells.settle();
        self.cells.places[at].len()
    }

    /// Whether the cells of several places may lie among each other.
    pub(crate) fn is_mixed(&self) -> bool {
        self.cells.is_mixed()
    }

    /// The place of the text that was evaluated last and is still kept, which comes off the shelf
    /// for that if it is there.
    pub(crate) fn last(&mut self, context: &mut LlamaContext<'_>) -> Option<i32> {
        let kept = (0..self.cells.places.len()).filter(|at| !self.cells.places[*at].is_empty());
        if let Some(at) = kept.max_by_key(|at| self.cells.places[*at].touched) {
            return Some(at as i32);
        }
        let text = self.shelf.take(self.shelf.last()?);
        let (at, known) = (self.vacate(context, None)?, text.tokens.len());
        let held = self.take_from_shelf(context, at, text, known);
        self.cells.touch(at, false);
        (held > 0).then_some(at as i32)
    }

    /// What a place holds, and how many tokens of it were a prompt.
    pub(crate) fn text(&self, place: i32) -> (Vec<LlamaToken>, usize) {
        let place = &self.cells.places[place as usize];
        (place.tokens(), place.prompt.min(place.len()))
    }

    /// A place for a text of so many tokens from elsewhere, in a context that holds nothing else
    /// any more. `None` if there is no room for it, beside requests under way.
    pub(crate) fn make_place(
        &mut self,
        context: &mut LlamaContext<'_>,
        tokens: usize,
    ) -> Option<i32> {
        self.shelve_kept(context);
        let at = self.vacate(context, None)?;
        (tokens <= self.cells.free()).then_some(at as i32)
    }

    /// Notes that a place was filled with a text, the first tokens of which were a prompt.
    pub(crate) fn fill(&mut self, place: i32, tokens: &[LlamaToken], prompt: usize) {
        let at = place as usize;
        self.cells.hold(at, tokens);
        self.cells.places[at].prompt = prompt;
        self.cells.touch(at, false);
    }

    fn take_from_place(
        &mut self,
        context: &mut LlamaContext<'_>,
        tokens: &[LlamaToken],
        from: usize,
        known: usize,
    ) -> Option<(usize, usize)> {
        let place = &self.cells.places[from];
        // The next turn of the same text, or the same once more.
        let goes_on = known == place.len() || place.common(tokens) + 1 >= place.prompt;
        if goes_on && !place.taken {
            return Some((from, self.cut(context, from, known)));
        }
        let taken = place.taken;
        let alone = place.len() == self.cells.used();
        let other = if alone && !taken {
            None
        } else {
            self.vacate(context, Some(from))
        };
        if let Some(at) = other {
            return Some((at, self.copy(context, from, at, known)));
        }
        if taken {
            return None;
        }
        if let Some(saved) = self.saved(context, from) {
            self.shelf.put(saved);
        }
        Some((from, self.cut(context, from, known)))
    }

    /// Fills an empty place with a text from the shelf; returns how many tokens it then holds.
    fn take_from_shelf(
        &mut self,
        context: &mut LlamaContext<'_>,
        at: usize,
        text: ParkedPrompt,
        known: usize,
    ) -> usize {
        while self.cells.free() < text.tokens.len() {
            if !self.give_up_one(context) {
                self.shelf.put(text);
                return 0;
            }
        }
        if !text.restore(context, at as i32) {
            return 0;
        }
        self.cells.hold(at, &text.tokens);
        if known < text.tokens.len() && known + 1 < text.prompt {
            self.shelf.put(text);
        }
        // Of a window that was there as a whole, no more comes back than what it slides over.
        let known = self.usable(context, at, known);
        self.cut(context, at, known)
    }

    /// Looks again whether another place holds more of these tokens than a request's own, and
    /// copies it; returns how many of them the place now holds.
    pub(crate) fn catch_up(
        &mut self,
        context: &mut LlamaContext<'_>,
        place: i32,
        tokens: &[LlamaToken],
    ) -> usize {
        let at = place as usize;
        let own = self.cells.places[at].len();
        match self.place_with(context, tokens) {
            Some((source, known)) if known > own => self.copy(context, source, at, known),
            _ => own,
        }
    }

    /// Notes that the context has evaluated these tokens as the next ones of a place.
    pub(crate) fn note(&mut self, place: i32, tokens: &[LlamaToken]) {
        self.cells.hold(place as usize, tokens);
    }

    /// Takes out of the context what was evaluated behind the tokens of a place, but not noted.
    /// `false` if that cannot be: the place is then empty.
    pub(crate) fn trim(&mut self, context: &mut LlamaContext<'_>, place: i32) -> bool {
        self.cells.trim(context, place as usize)
    }

    /// Leaves a place; what it holds is kept.
    pub(crate) fn leave(&mut self, place: i32) {
        self.cells.touch(place as usize, false);
    }

    /// Leaves a place and empties it.
    pub(crate) fn drop(&mut self, context: &mut LlamaContext<'_>, place: i32) {
        self.cells.touch(place as usize, false);
        self.cells.clear(context, place as usize);
    }

    /// Forgets everything: the cells, their bytes, what is on the shelf, and the checkpoints.
    pub(crate) fn reset(&mut self, context: &mut LlamaContext<'_>) {
        self.cells.reset(context);
        self.shelf = HostCache::default();
        self.checkpoints.clear();
    }

    /// Puts the least recently used of what is kept on the shelf. `false` if nothing is.
    pub(crate) fn give_up_one(&mut self, context: &mut LlamaContext<'_>) -> bool {
        let kept = (0..self.cells.places.len()).filter(|at| {
            let place = &self.cells.places[*at];
            !place.taken && !place.is_empty()
        });
        let oldest = kept.min_by_key(|at| self.cells.places[*at].touched);
        if let Some(at) = oldest {
            self.shelve(context, at);
        }
        oldest.is_some()
    }

    fn shelve_kept(&mut self, context: &mut LlamaContext<'_>) {
        while self.give_up_one(context) {}
    }

    /// Puts what a place holds on the shelf, and empties it.
    fn shelve(&mut self, context: &mut LlamaContext<'_>, at: usize) {
        if HostCache::wants(self.cells.places[at].len())
            && let Some(saved) = self.saved(context, at)
        {
            self.shelf.put(saved);
        }
        self.cells.clear(context, at);
    }

    fn saved(&self, context: &LlamaContext<'_>, at: usize) -> Option<ParkedPrompt> {
        let place = &self.cells.places[at];
        let whole = Cells::whole(context, at as i32) && !self.checkpoints.needed();
        ParkedPrompt::new(context, at as i32, place.tokens(), place.prompt, whole)
    }

    /// Where most of these tokens are to be had. The last one of them never counts: it has to be
    /// evaluated for its logits.
    fn source(
        &self,
        context: &LlamaContext<'_>,
        tokens: &[LlamaToken],
        reuse: bool,
    ) -> Option<Source> {
        if !reuse {
            return None;
        }
        let wanted = &tokens[..tokens.len().saturating_sub(1)];
        let shelved = self.shelf.find(wanted, &self.checkpoints);
        let placed = self.place_with(context, tokens);
        match (placed, shelved) {
            (Some((at, known)), Some((_, more))) if known >= more => Some(Source::Place(at, known)),
            (_, Some((at, known))) => Some(Source::HostCache(at, known)),
            (Some((at, known)), None) => Some(Source::Place(at, known)),
            (None, None) => None,
        }
    }

    /// The place that holds most of these tokens but the last, and how many.
    fn place_with(
        &self,
        context: &LlamaContext<'_>,
        tokens: &[LlamaToken],
    ) -> Option<(usize, usize)> {
        let wanted = &tokens[..tokens.len().saturating_sub(1)];
        let usable = |at: usize| self.usable(context, at, self.cells.places[at].common(wanted));
        (0..self.cells.places.len())
            .map(|at| (at, usable(at)))
            .filter(|(_, known)| *known > 0)
            // Of equals the one that can be taken over, and was used last.
            .max_by_key(|(at, known)| {
                let place = &self.cells.places[*at];
                (*known, !place.taken, place.touched)
            })
    }

    /// Makes a place empty: one that is, else the least recently used of the kept ones. `None` if
    /// all are taken.
    fn vacate(&mut self, context: &mut LlamaContext<'_>, except: Option<usize>) -> Option<usize> {
        let at = (0..self.cells.places.len())
            .filter(|at| Some(*at) != except && !self.cells.places[*at].taken)
            .min_by_key(|at| {
                let place = &self.cells.places[*at];
                (!place.is_empty(), place.touched)
            })?;
        self.shelve(context, at);
        Some(at)
    }
}
