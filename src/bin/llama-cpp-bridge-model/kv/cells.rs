//! The cells of the context: whose they are, and how many. They are one set for all requests; each
//! request has a place, llama.cpp's sequence, and a cell may belong to several places whose texts
//! begin alike.

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::token::LlamaToken;

/// Cells that one who is alone is not moved for: llama.cpp looks at as many at a time.
const NEAR: usize = 256;

/// The places of a context, and their cells.
pub(crate) struct Cells {
    pub(crate) places: Vec<Place>,
    /// Cells of the context.
    size: usize,
    /// Cells in use, each counted once.
    used: usize,
    /// Whether those of several places may lie among each other.
    mixed: bool,
    /// The most in use since one was alone: so far the last one in use may be.
    peak: usize,
    /// Counts up with every use of a place.
    clock: u64,
    /// The number of the next cell.
    next: u64,
}

/// A place: a request's own, or with what one has left behind, or empty.
#[derive(Default)]
pub(crate) struct Place {
    /// From the start of the text, without gaps.
    cells: Vec<Cell>,
    /// Tokens of the prompt that it was last taken for.
    pub(crate) prompt: usize,
    /// Whether it is a request's own.
    pub(crate) taken: bool,
    /// When it was taken or left.
    pub(crate) touched: u64,
}

/// A token that was evaluated.
#[derive(Clone, Copy)]
struct Cell {
    token: LlamaToken,
    /// The same in two places if they share the cell.
    number: u64,
}

impl Place {
    /// How many tokens it holds.
    pub(crate) fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether it holds none.
    pub(crate) fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// The tokens that it holds.
    pub(crate) fn tokens(&self) -> Vec<LlamaToken> {
        self.cells.iter().map(|cell| cell.token).collect()
    }

    /// How many of its first tokens are these.
    pub(crate) fn common(&self, tokens: &[LlamaToken]) -> usize {
        let pairs = self.cells.iter().zip(tokens);
        pairs.take_while(|(a, b)| a.token == **b).count()
    }
}

impl Cells {
    /// Those of an empty context of this many, for so many requests at a time.
    pub(crate) fn new(places: u32, size: usize) -> Self {
        Self {
            places: (0..places).map(|_| Place::default()).collect(),
            size,
            used: 0,
            mixed: false,
            peak: 0,
            clock: 0,
            next: 0,
        }
    }

    /// Cells in use.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Cells that nobody uses.
    pub(crate) fn free(&self) -> usize {
        self.size.saturating_sub(self.used)
    }

    /// Cells that are free once nothing is kept but what requests under way use.
    pub(crate) fn free_at_most(&self) -> usize {
        let taken = distinct(self.places.iter().filter(|place| place.taken));
        self.size.saturating_sub(taken)
    }

    /// Whether the cells of several places may lie among each other.
    pub(crate) fn is_mixed(&self) -> bool {
        self.mixed
    }

    /// Whether the cells in use, which are those of one place, may lie far behind the first ones.
    pub(crate) fn is_sparse(&self) -> bool {
        self.peak > self.used + NEAR
    }

    /// Takes it that the cells in use are the first ones, or near enough.
    pub(crate) fn settle(&mut self) {
        self.peak = self.used;
    }

    /// Whether a place holds its text from the first token on. Not so a window that has slid, or
    /// a recurrent state, which is that of the last token alone: nothing but the whole of it can
    /// be used again.
    pub(crate) fn whole(context: &LlamaContext<'_>, place: i32) -> bool {
        context.kv_cache_seq_pos_min(place) <= 0
    }

    /// Adds tokens to what a place holds.
    pub(crate) fn hold(&mut self, at: usize, tokens: &[LlamaToken]) {
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
    pub(crate) fn copy(
        &mut self,
        context: &mut LlamaContext<'_>,
        from: usize,
        to: usize,
        count: usize,
    ) {
        self.clear(context, to);
        // Fails only for a count that is no i32, which no context holds.
        let _ = context.copy_kv_cache_seq(from as i32, to as i32, Some(0), Some(count as u32));
        self.places[to].cells = self.places[from].cells[..count].to_vec();
        self.recount();
    }

    /// Cuts a place back to its first tokens. Returns how many it has then: 0 if it cannot be cut.
    pub(crate) fn cut(&mut self, context: &mut LlamaContext<'_>, at: usize, count: usize) -> usize {
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

    /// Takes out what llama.cpp has behind the tokens of a place. `false` if that cannot be: the
    /// place is then empty.
    pub(crate) fn trim(&mut self, context: &mut LlamaContext<'_>, at: usize) -> bool {
        let end = self.places[at].cells.len() as u32;
        let trimmed = context.clear_kv_cache_seq(Some(at as u32), Some(end), None);
        let trimmed = trimmed.is_ok_and(|trimmed| trimmed);
        if !trimmed {
            self.clear(context, at);
        }
        trimmed
    }

    /// Empties a place.
    pub(crate) fn clear(&mut self, context: &mut LlamaContext<'_>, at: usize) {
        self.places[at].cells.clear();
        // Removing a whole sequence always succeeds.
        let _ = context.clear_kv_cache_seq(Some(at as u32), None, None);
        self.recount();
    }

    /// Notes that a place was taken, or left.
    pub(crate) fn touch(&mut self, at: usize, taken: bool) {
        self.clock += 1;
        self.places[at].taken = taken;
        self.places[at].touched = self.clock;
    }

    /// Forgets everything, down to the bytes of the cells.
    pub(crate) fn reset(&mut self, context: &mut LlamaContext<'_>) {
        context.clear_kv_cache();
        let places = self.places.len();
        self.places = (0..places).map(|_| Place::default()).collect();
        self.recount();
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
