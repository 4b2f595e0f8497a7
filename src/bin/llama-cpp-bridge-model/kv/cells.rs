//! The cells of the context: which tokens are in them, and how many are in use. All sequences of
//! llama.cpp share one set of cells (a unified KV cache), and a cell may belong to several
//! sequences whose texts begin alike.

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::token::LlamaToken;

/// A sequence that is alone is not moved for fewer cells: llama.cpp pads its views of the cache to
/// as many.
const PADDING: usize = 256;

/// llama.cpp's number of a sequence of the context (`llama_seq_id`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeqId(u16);

impl SeqId {
    /// The number as llama.cpp takes it.
    pub fn raw(self) -> i32 {
        i32::from(self.0)
    }

    fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The sequences of a context, and their cells.
pub(super) struct Cells {
    sequences: Vec<CachedSequence>,
    /// Cells of the context.
    size: usize,
    /// Cells in use, each counted once.
    used: usize,
    /// Whether cells of several sequences may be interleaved.
    interleaved: bool,
    /// The most cells in use since one sequence was alone: the last one in use is not after it.
    peak: usize,
    /// Counts up with every use of a sequence.
    clock: u64,
    /// The number of the next cell.
    next: u64,
}

/// What a sequence of the context holds: of a request under way, or left behind by one, or nothing.
#[derive(Default)]
pub(super) struct CachedSequence {
    /// From the start of the text, without gaps.
    tokens: Vec<LlamaToken>,
    /// For each token the number of its cell: the same in two sequences if they share the cell.
    cells: Vec<u64>,
    /// Tokens of the prompt that it was last assigned to.
    pub(super) n_prompt: usize,
    /// Whether a request under way uses it.
    pub(super) in_use: bool,
    /// When it was assigned or released.
    pub(super) last_used: u64,
}

impl CachedSequence {
    /// How many tokens it holds.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether it holds none.
    pub(super) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The tokens that it holds.
    pub(super) fn tokens(&self) -> &[LlamaToken] {
        &self.tokens
    }

    fn truncate(&mut self, n_tokens: usize) {
        self.tokens.truncate(n_tokens);
        self.cells.truncate(n_tokens);
    }
}

impl Cells {
    /// The cells of an empty context: `size` of them, for `n_seq_max` sequences.
    pub(super) fn new(n_seq_max: u32, size: usize) -> Self {
        Self {
            sequences: empty(n_seq_max as usize),
            size,
            used: 0,
            interleaved: false,
            peak: 0,
            clock: 0,
            next: 0,
        }
    }

    /// All sequences of the context.
    pub(super) fn ids(&self) -> impl Iterator<Item = SeqId> + use<> {
        // A context has at most 256 sequences (`LLAMA_MAX_SEQ`).
        (0..self.sequences.len() as u16).map(SeqId)
    }

    /// What a sequence holds.
    pub(super) fn get(&self, seq: SeqId) -> &CachedSequence {
        &self.sequences[seq.index()]
    }

    /// Cells in use.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Free cells.
    pub(super) fn free(&self) -> usize {
        self.size.saturating_sub(self.used)
    }

    /// Cells that would be free if nothing were kept but what requests under way use.
    pub(super) fn max_free(&self) -> usize {
        let in_use = count(self.sequences.iter().filter(|sequence| sequence.in_use));
        self.size.saturating_sub(in_use)
    }

    /// Whether cells of several sequences may be interleaved.
    pub(super) fn is_interleaved(&self) -> bool {
        self.interleaved
    }

    /// Whether the cells in use, which are those of one sequence, may be far after the first ones.
    pub(super) fn is_sparse(&self) -> bool {
        self.peak > self.used + PADDING
    }

    /// Assumes that the cells in use are the first ones, or near enough.
    pub(super) fn reset_peak(&mut self) {
        self.peak = self.used;
    }

    /// Whether llama.cpp holds a sequence from its first token on. Not so a sliding window that has
    /// slid, or a recurrent state, which is that of the last token alone: these can only be used
    /// again as a whole.
    pub(super) fn is_complete(context: &LlamaContext<'_>, seq: SeqId) -> bool {
        context.kv_cache_seq_pos_min(seq.raw()) <= 0
    }

    /// Adds tokens to what a sequence holds.
    pub(super) fn append(&mut self, seq: SeqId, tokens: &[LlamaToken]) {
        let next = self.next + tokens.len() as u64;
        let sequence = &mut self.sequences[seq.index()];
        sequence.tokens.extend_from_slice(tokens);
        sequence.cells.extend(self.next..next);
        self.next = next;
        self.used += tokens.len();
        self.interleaved |= sequence.len() < self.used;
        self.peak = self.peak.max(self.used);
    }

    /// Makes the first `n_tokens` of a sequence those of another one as well.
    pub(super) fn copy(
        &mut self,
        context: &mut LlamaContext<'_>,
        from: SeqId,
        to: SeqId,
        n_tokens: usize,
    ) {
        self.clear(context, to);
        // Fails only for a number that is not an i32, which no context holds.
        let _ = context.copy_kv_cache_seq(from.raw(), to.raw(), Some(0), Some(n_tokens as u32));
        let (tokens, cells) = {
            let from = self.get(from);
            (
                from.tokens[..n_tokens].to_vec(),
                from.cells[..n_tokens].to_vec(),
            )
        };
        let to = &mut self.sequences[to.index()];
        (to.tokens, to.cells) = (tokens, cells);
        self.recount();
    }

    /// Truncates a sequence to its first `n_tokens`. Returns how many it has then: 0 if it cannot
    /// be truncated.
    pub(super) fn truncate(
        &mut self,
        context: &mut LlamaContext<'_>,
        seq: SeqId,
        n_tokens: usize,
    ) -> usize {
        if n_tokens == self.get(seq).len() {
            return n_tokens;
        }
        if !remove_from(context, seq, n_tokens) {
            self.clear(context, seq);
            return 0;
        }
        self.sequences[seq.index()].truncate(n_tokens);
        self.recount();
        n_tokens
    }

    /// Removes what llama.cpp has after the tokens of a sequence. `false` if it cannot: the
    /// sequence is then empty.
    pub(super) fn trim(&mut self, context: &mut LlamaContext<'_>, seq: SeqId) -> bool {
        let trimmed = remove_from(context, seq, self.get(seq).len());
        if !trimmed {
            self.clear(context, seq);
        }
        trimmed
    }

    /// Empties a sequence.
    pub(super) fn clear(&mut self, context: &mut LlamaContext<'_>, seq: SeqId) {
        self.sequences[seq.index()].truncate(0);
        // Removing a whole sequence always succeeds.
        let _ = context.clear_kv_cache_seq(Some(seq.raw() as u32), None, None);
        self.recount();
    }

    /// Notes that a sequence was assigned to a prompt of `n_prompt` tokens.
    pub(super) fn assign(&mut self, seq: SeqId, n_prompt: usize) {
        self.touch(seq, true);
        self.sequences[seq.index()].n_prompt = n_prompt;
    }

    /// Notes that no request uses a sequence any more.
    pub(super) fn release(&mut self, seq: SeqId) {
        self.touch(seq, false);
    }

    fn touch(&mut self, seq: SeqId, in_use: bool) {
        self.clock += 1;
        let sequence = &mut self.sequences[seq.index()];
        sequence.in_use = in_use;
        sequence.last_used = self.clock;
    }

    /// Empties the context, down to the bytes of the cells.
    pub(super) fn reset(&mut self, context: &mut LlamaContext<'_>) {
        context.clear_kv_cache();
        self.sequences = empty(self.sequences.len());
        self.recount();
    }

    fn recount(&mut self) {
        self.used = count(self.sequences.iter());
        if self.used == 0 {
            self.interleaved = false;
            self.peak = 0;
        }
    }
}

fn empty(n_seq_max: usize) -> Vec<CachedSequence> {
    (0..n_seq_max).map(|_| CachedSequence::default()).collect()
}

/// Removes the tokens of a sequence from this position on; whether llama.cpp could.
fn remove_from(context: &mut LlamaContext<'_>, seq: SeqId, position: usize) -> bool {
    let removed = context.clear_kv_cache_seq(Some(seq.raw() as u32), Some(position as u32), None);
    removed.is_ok_and(|removed| removed)
}

/// The cells of these sequences, each counted once. Two sequences can only share a prefix.
fn count<'a>(sequences: impl Iterator<Item = &'a CachedSequence>) -> usize {
    let mut counted: Vec<&CachedSequence> = Vec::new();
    let mut cells = 0;
    for sequence in sequences {
        let others = counted.iter();
        let shared = others.map(|other| common_prefix(&sequence.cells, &other.cells));
        cells += sequence.cells.len() - shared.max().unwrap_or(0);
        counted.push(sequence);
    }
    cells
}

/// How many of their first elements are the same.
pub fn common_prefix<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
