//! What the context holds, and what of it can be used again. The context is one set of cells for
//! all requests; each has a place, llama.cpp's sequence, and a cell may belong to several places
//! whose texts begin alike. What a request leaves behind stays in its place until the cells or the
//! place are needed, or somebody is alone, who would be slowed down by it; then it goes to the
//! shelf.

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::token::LlamaToken;

use super::shelf::{Shelf, Shelved};

/// Cells that one who is alone is not moved for: llama.cpp looks at as many at a time.
const NEAR: usize = 256;

/// The places of a context.
pub(super) struct Cache {
    places: Vec<Place>,
    shelf: Shelf,
    /// Whether the cells of several places have come to lie among each other.
    mixed: bool,
    /// The most cells in use since one was alone: so far the last one in use may be.
    peak: usize,
    /// Cells of the context.
    size: usize,
    /// Cells in use, each counted once.
    used: usize,
    /// Counts up with every use of a place.
    clock: u64,
    /// The number of the next cell.
    next: u64,
}

/// A place: a request's own, or with what one has left behind, or empty.
#[derive(Default)]
struct Place {
    /// From the start of the text, without gaps.
    cells: Vec<Cell>,
    /// Tokens of the prompt that it was last taken for.
    prompt: usize,
    taken: bool,
    /// When it was taken or left.
    touched: u64,
}

/// A token that was evaluated.
#[derive(Clone, Copy)]
struct Cell {
    token: LlamaToken,
    /// The same in two places if they share the cell.
    number: u64,
}

/// Where the beginning of a prompt is to be had, and how many tokens of it.
#[derive(Clone, Copy)]
enum Source {
    Place(usize, usize),
    Shelf(usize, usize),
}

/// A place for a request.
pub(super) struct Seat {
    /// llama.cpp's number of the sequence.
    pub(super) place: i32,
    /// How many tokens of the prompt it holds already.
    pub(super) known: usize,
}

impl Cache {
    /// The empty cache of a context of this many cells, for so many requests at a time.
    pub(super) fn new(places: u32, size: usize) -> Self {
        Self {
            places: (0..places).map(|_| Place::default()).collect(),
            shelf: Shelf::default(),
            mixed: false,
            peak: 0,
            size,
            used: 0,
            clock: 0,
            next: 0,
        }
    }

    /// Cells that nobody uses.
    pub(super) fn free(&self) -> usize {
        self.size.saturating_sub(self.used)
    }

    /// Cells that are free once nothing is kept but what requests under way use.
    pub(super) fn free_at_most(&self) -> usize {
        let taken = distinct(self.places.iter().filter(|place| place.taken));
        self.size.saturating_sub(taken)
    }

    /// Takes a place for these tokens, with as much of them as is to be had anywhere, unless
    /// `reuse` is false. Of the kept ones the least recently used makes room. `None` if all are
    /// taken.
    pub(super) fn take(
        &mut self,
        context: &mut LlamaContext<'_>,
        tokens: &[LlamaToken],
        reuse: bool,
    ) -> Option<Seat> {
        let source = self.source(context, tokens, reuse);
        let (at, known) = match source {
            None => (self.vacate(context, None)?, 0),
            Some(Source::Place(from, known)) => self.take_from_place(context, from, known)?,
            Some(Source::Shelf(from, known)) => {
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
            self.clear(context, at);
        }
        self.touch(at, true);
        self.places[at].prompt = tokens.len();
        let place = at as i32;
        Some(Seat { place, known })
    }

    /// Takes a place for one who is alone: as [`take`](Self::take), but nothing else is left in
    /// the context, and its cells are the first ones.
    pub(super) fn take_alone(
        &mut self,
        context: &mut LlamaContext<'_>,
        tokens: &[LlamaToken],
        reuse: bool,
    ) -> Option<Seat> {
        let source = self.source(context, tokens, reuse);
        if self.mixed || !matches!(source, Some(Source::Place(..))) {
            self.shelve_kept(context);
        }
        self.take(context, tokens, reuse)
    }

    /// Leaves nothing else in the context for one who has become alone, and moves it to the first
    /// cells if it may lie far behind them. Returns how many of its tokens its place then holds.
    pub(super) fn settle(&mut self, context: &mut LlamaContext<'_>, place: i32) -> usize {
        let at = place as usize;
        self.shelve_kept(context);
        if self.peak > self.used + NEAR
            && let Some(own) = self.saved(context, at)
        {
            let cells = std::mem::take(&mut self.places[at].cells);
            self.clear(context, at);
            if own.restore(context, place) {
                self.places[at].cells = cells;
                self.recount();
            }
        }
        self.peak = self.used;
        self.places[at].cells.len()
    }

    /// Whether the cells of several places may lie among each other.
    pub(super) fn is_mixed(&self) -> bool {
        self.mixed
    }

    fn take_from_place(
        &mut self,
        context: &mut LlamaContext<'_>,
        from: usize,
        known: usize,
    ) -> Option<(usize, usize)> {
        let place = &self.places[from];
        // The next turn of the same text, or the same once more.
        let goes_on = known == place.cells.len() || known + 1 >= place.prompt;
        if goes_on && !place.taken {
            return Some((from, self.cut(context, from, known)));
        }
        let taken = place.taken;
        let alone = place.cells.len() == self.used;
        let other = if alone && !taken {
            None
        } else {
            self.vacate(context, Some(from))
        };
        if let Some(at) = other {
            self.copy(context, from, at, known);
            return Some((at, known));
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
        text: Shelved,
        known: usize,
    ) -> usize {
        while self.free() < text.tokens.len() {
            if !self.give_up_one(context) {
                self.shelf.put(text);
                return 0;
            }
        }
        if !text.restore(context, at as i32) {
            return 0;
        }
        self.hold(at, &text.tokens);
        if known < text.tokens.len() && known + 1 < text.prompt {
            self.shelf.put(text);
        }
        if known < self.places[at].cells.len() && !Self::whole(context, at as i32) {
            return 0;
        }
        self.cut(context, at, known)
    }

    /// Looks again whether another place holds more of these tokens than a request's own, and
    /// copies it; returns how many of them the place now holds.
    pub(super) fn catch_up(
        &mut self,
        context: &mut LlamaContext<'_>,
        place: i32,
        tokens: &[LlamaToken],
    ) -> usize {
        let at = place as usize;
        let own = self.places[at].cells.len();
        match self.place_with(context, tokens) {
            Some((source, known)) if known > own => {
                self.copy(context, source, at, known);
                known
            }
            _ => own,
        }
    }

    /// Notes that the context has evaluated these tokens as the next ones of a place.
    pub(super) fn note(&mut self, place: i32, tokens: &[LlamaToken]) {
        self.hold(place as usize, tokens);
    }

    /// Leaves a place; what it holds is kept.
    pub(super) fn leave(&mut self, place: i32) {
        self.touch(place as usize, false);
    }

    /// Leaves a place and empties it.
    pub(super) fn drop(&mut self, context: &mut LlamaContext<'_>, place: i32) {
        self.touch(place as usize, false);
        self.clear(context, place as usize);
    }

    /// Forgets everything: the cells, their bytes, and what is on the shelf.
    pub(super) fn reset(&mut self, context: &mut LlamaContext<'_>) {
        context.clear_kv_cache();
        let places = self.places.len();
        self.places = (0..places).map(|_| Place::default()).collect();
        self.shelf = Shelf::default();
        self.recount();
    }

    /// Puts the least recently used of what is kept on the shelf. `false` if nothing is.
    pub(super) fn give_up_one(&mut self, context: &mut LlamaContext<'_>) -> bool {
        let kept = (0..self.places.len()).filter(|at| {
            let place = &self.places[*at];
            !place.taken && !place.cells.is_empty()
        });
        let oldest = kept.min_by_key(|at| self.places[*at].touched);
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
        if Shelf::wants(self.places[at].cells.len())
            && let Some(saved) = self.saved(context, at)
        {
            self.shelf.put(saved);
        }
        self.clear(context, at);
    }

    fn saved(&self, context: &LlamaContext<'_>, at: usize) -> Option<Shelved> {
        let place = &self.places[at];
        let tokens = place.cells.iter().map(|cell| cell.token).collect();
        let whole = Self::whole(context, at as i32);
        Shelved::new(context, at as i32, tokens, place.prompt, whole)
    }

    /// Whether a place holds its text from the first token on. Not so a window that has slid, or
    /// a recurrent state, which is that of the last token alone: nothing but the whole of it can
    /// be used again.
    pub(super) fn whole(context: &LlamaContext<'_>, place: i32) -> bool {
        context.kv_cache_seq_pos_min(place) <= 0
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
        let shelved = self.shelf.find(wanted);
        let placed = self.place_with(context, tokens);
        match (placed, shelved) {
            (Some((at, known)), Some((_, more))) if known >= more => Some(Source::Place(at, known)),
            (_, Some((at, known))) => Some(Source::Shelf(at, known)),
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
        let usable = |at: usize| {
            let cells = &self.places[at].cells;
            let pairs = cells.iter().zip(wanted);
            let same = pairs.take_while(|(a, b)| a.token == **b).count();
            if same < cells.len() && !Self::whole(context, at as i32) {
                return 0;
            }
            same
        };
        (0..self.places.len())
            .map(|at| (at, usable(at)))
            .filter(|(_, known)| *known > 0)
            // Of equals the one that can be taken over, and was used last.
            .max_by_key(|(at, known)| {
                let place = &self.places[*at];
                (*known, !place.taken, place.touched)
            })
    }

    /// Makes a place empty: one that is, else the least recently used of the kept ones. `None` if
    /// all are taken.
    fn vacate(&mut self, context: &mut LlamaContext<'_>, except: Option<usize>) -> Option<usize> {
        let at = (0..self.places.len())
            .filter(|at| Some(*at) != except && !self.places[*at].taken)
            .min_by_key(|at| {
                let place = &self.places[*at];
                (!place.cells.is_empty(), place.touched)
            })?;
        self.shelve(context, at);
        Some(at)
    }

    /// Adds tokens to what a place holds.
    fn hold(&mut self, at: usize, tokens: &[LlamaToken]) {
        let numbers = self.next..;
        let cells = tokens.iter().zip(numbers);
        self.places[at]
            .cells
            .extend(cells.map(|(token, number)| Cell {
                token: *token,
                number,
            }));
        self.next += tokens.len() as u64;
        self.used += tokens.len();
        self.mixed |= self.places[at].cells.len() < self.used;
        self.peak = self.peak.max(self.used);
    }

    /// Makes the first tokens of a place those of another one as well.
    fn copy(&mut self, context: &mut LlamaContext<'_>, from: usize, to: usize, count: usize) {
        self.clear(context, to);
        // Fails only for a count that is no i32, which no context holds.
        let _ = context.copy_kv_cache_seq(from as i32, to as i32, Some(0), Some(count as u32));
        self.places[to].cells = self.places[from].cells[..count].to_vec();
        self.recount();
    }

    /// Cuts a place back to its first tokens. Returns how many it has then: 0 if it cannot be cut.
    fn cut(&mut self, context: &mut LlamaContext<'_>, at: usize, count: usize) -> usize {
        if count == self.places[at].cells.len() {
            return count;
        }
        let cut = context.clear_kv_cache_seq(Some(at as u32), Some(count as u32), None);
        if !cut.is_ok_and(|cut| cut) {
            self.clear(context, at);
            return 0;
        }
        self.places[at].cells.truncate(count);
        self.recount();
        count
    }

    /// Empties a place.
    fn clear(&mut self, context: &mut LlamaContext<'_>, at: usize) {
        self.places[at].cells.clear();
        // Removing a whole sequence always succeeds.
        let _ = context.clear_kv_cache_seq(Some(at as u32), None, None);
        self.recount();
    }

    fn touch(&mut self, at: usize, taken: bool) {
        self.clock += 1;
        self.places[at].taken = taken;
        self.places[at].touched = self.clock;
    }

    fn recount(&mut self) {
        self.used = distinct(self.places.iter());
        if self.used == 0 {
            self.mixed = false;
            self.peak = 0;
        }
    }
}

/// The cells of these places, each counted once. Two places can share only how they begin.
fn distinct<'a>(places: impl Iterator<Item = &'a Place>) -> usize {
    let mut counted: Vec<&Place> = Vec::new();
    let mut cells = 0;
    for place in places {
        let shared = counted.iter().map(|other| shared(place, other)).max();
        cells += place.cells.len() - shared.unwrap_or(0);
        counted.push(place);
    }
    cells
}

fn shared(a: &Place, b: &Place) -> usize {
    let pairs = a.cells.iter().zip(&b.cells);
    pairs.take_while(|(a, b)| a.number == b.number).count()
}
