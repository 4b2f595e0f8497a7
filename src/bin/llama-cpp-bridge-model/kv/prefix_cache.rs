//! What the context holds that can be used again. What a request leaves behind stays in its
//! sequence until its cells or the sequence are needed, or until a request runs alone, which it
//! would slow down; then it is parked in the host cache.

mod truncate;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::token::LlamaToken;

use crate::kv::cells::{Cells, SeqId, common_prefix};
use crate::kv::checkpoints::Checkpoints;
use crate::kv::host_cache::{HostCache, ParkedPrompt};

/// Everything that was evaluated and is still there.
pub struct PrefixCache {
    cells: Cells,
    parked: HostCache,
    checkpoints: Checkpoints,
}

/// Where the beginning of a prompt is to be had, and how many tokens of it.
#[derive(Clone, Copy)]
enum Source {
    Sequence(SeqId, usize),
    /// By its index in the host cache.
    Parked(usize, usize),
}

/// A sequence for a request.
pub struct Assignment {
    pub seq: SeqId,
    /// How many tokens of the prompt it holds already.
    pub n_cached: usize,
    /// After how many tokens of the prompt [`PrefixCache::checkpoint`] is wanted, in ascending
    /// order.
    pub checkpoint_at: Vec<usize>,
}

impl PrefixCache {
    /// The empty cache of a context of `n_cells` cells and `n_seq_max` sequences, which may need
    /// checkpoints to be truncated.
    pub fn new(n_seq_max: u32, n_cells: usize, checkpoints: bool) -> Self {
        Self {
            cells: Cells::new(n_seq_max, n_cells),
            parked: HostCache::default(),
            checkpoints: Checkpoints::new(checkpoints, n_cells),
        }
    }

    /// Free cells.
    pub fn free(&self) -> usize {
        self.cells.free()
    }

    /// Cells that would be free if nothing were kept but what requests under way use.
    pub fn max_free(&self) -> usize {
        self.cells.max_free()
    }

    /// Assigns a sequence to these tokens, with as many of them as are to be had anywhere, unless
    /// `reuse` is false. If none is empty, the least recently used one is parked. `None` if all are
    /// in use.
    pub fn assign(
        &mut self,
        context: &mut LlamaContext<'_>,
        tokens: &[LlamaToken],
        reuse: bool,
    ) -> Option<Assignment> {
        let source = self.source(context, tokens, reuse);
        let diverges = match reuse && self.checkpoints.needed() {
            true => self.divergence(tokens),
            false => 0,
        };
        let (seq, n_cached) = match source {
            None => (self.vacate(context, None)?, 0),
            Some(Source::Sequence(from, n_cached)) => {
                self.assign_from(context, tokens, from, n_cached)?
            }
            Some(Source::Parked(index, n_cached)) => {
                // Vacating a sequence may park another text, so this one is taken out first.
                let prompt = self.parked.take(index);
                let Some(seq) = self.vacate(context, None) else {
                    self.parked.put(prompt);
                    return None;
                };
                (seq, self.unpark(context, seq, prompt, n_cached))
            }
        };
        if n_cached == 0 {
            self.cells.clear(context, seq);
        }
        self.cells.assign(seq, tokens.len());
        Some(Assignment {
            seq,
            n_cached,
            checkpoint_at: self.checkpoints.positions(tokens.len(), n_cached, diverges),
        })
    }

    /// As [`assign`](Self::assign), for a request that runs alone: nothing else is left in the
    /// context, and its cells are the first ones.
    pub fn assign_alone(
        &mut self,
        context: &mut LlamaContext<'_>,
        tokens: &[LlamaToken],
        reuse: bool,
    ) -> Option<Assignment> {
        let source = self.source(context, tokens, reuse);
        if self.cells.is_interleaved() || !matches!(source, Some(Source::Sequence(..))) {
            self.park_all(context);
        }
        self.assign(context, tokens, reuse)
    }

    /// For a request that now runs alone: parks everything else, and moves its sequence to the
    /// first cells if it may be far after them. Returns how many tokens the sequence then holds.
    pub fn compact(&mut self, context: &mut LlamaContext<'_>, seq: SeqId) -> usize {
        self.park_all(context);
        if self.cells.is_sparse()
            && let Some(own) = self.copied_out(context, seq)
        {
            self.cells.clear(context, seq);
            if own.restore(context, seq) {
                self.cells.append(seq, &own.tokens);
            }
        }
        self.cells.reset_peak();
        self.cells.get(seq).len()
    }

    /// Whether cells of several sequences may be interleaved.
    pub fn is_interleaved(&self) -> bool {
        self.cells.is_interleaved()
    }

    /// Whether a sequence of the context is held from its first token on.
    pub fn is_complete(context: &LlamaContext<'_>, seq: SeqId) -> bool {
        Cells::is_complete(context, seq)
    }

    /// The sequence of the text that was evaluated last and is still kept; if it is parked, it is
    /// copied back first.
    pub fn last(&mut self, context: &mut LlamaContext<'_>) -> Option<SeqId> {
        let kept = self
            .cells
            .ids()
            .filter(|seq| !self.cells.get(*seq).is_empty());
        if let Some(seq) = kept.max_by_key(|seq| self.cells.get(*seq).last_used) {
            return Some(seq);
        }
        let prompt = self.parked.take(self.parked.last()?);
        let (seq, n_tokens) = (self.vacate(context, None)?, prompt.tokens.len());
        let restored = self.unpark(context, seq, prompt, n_tokens);
        self.cells.release(seq);
        (restored > 0).then_some(seq)
    }

    /// The tokens of a sequence, and how many of them were a prompt.
    pub fn tokens(&self, seq: SeqId) -> (&[LlamaToken], usize) {
        let sequence = self.cells.get(seq);
        (sequence.tokens(), sequence.n_prompt.min(sequence.len()))
    }

    /// An empty sequence for a text of `n_tokens` from elsewhere, in a context where everything else
    /// is parked. `None` if it does not fit beside requests under way.
    pub(super) fn vacate_for(
        &mut self,
        context: &mut LlamaContext<'_>,
        n_tokens: usize,
    ) -> Option<SeqId> {
        self.park_all(context);
        let seq = self.vacate(context, None)?;
        (n_tokens <= self.cells.free()).then_some(seq)
    }

    /// Notes that an empty sequence was filled with a text, the first tokens of which were a prompt.
    pub(super) fn fill(&mut self, seq: SeqId, tokens: &[LlamaToken], n_prompt: usize) {
        self.cells.append(seq, tokens);
        self.cells.assign(seq, n_prompt);
        self.cells.release(seq);
    }

    fn assign_from(
        &mut self,
        context: &mut LlamaContext<'_>,
        tokens: &[LlamaToken],
        from: SeqId,
        n_cached: usize,
    ) -> Option<(SeqId, usize)> {
        let sequence = self.cells.get(from);
        // The next turn of the same text, or the same once more.
        let continues = n_cached == sequence.len()
            || common_prefix(sequence.tokens(), tokens) + 1 >= sequence.n_prompt;
        let in_use = sequence.in_use;
        if continues && !in_use {
            return Some((from, self.truncate(context, from, n_cached)));
        }
        let alone = sequence.len() == self.cells.used();
        let other = if alone && !in_use {
            None
        } else {
            self.vacate(context, Some(from))
        };
        if let Some(seq) = other {
            return Some((seq, self.copy(context, from, seq, n_cached)));
        }
        if in_use {
            return None;
        }
        if let Some(copy) = self.copied_out(context, from) {
            self.parked.put(copy);
        }
        Some((from, self.truncate(context, from, n_cached)))
    }

    /// Fills an empty sequence with a parked text; returns how many tokens it then holds.
    fn unpark(
        &mut self,
        context: &mut LlamaContext<'_>,
        seq: SeqId,
        prompt: ParkedPrompt,
        n_cached: usize,
    ) -> usize {
        while self.cells.free() < prompt.tokens.len() {
            if !self.park_oldest(context) {
                self.parked.put(prompt);
                return 0;
            }
        }
        if !prompt.restore(context, seq) {
            return 0;
        }
        self.cells.append(seq, &prompt.tokens);
        if n_cached < prompt.tokens.len() && n_cached + 1 < prompt.n_prompt {
            self.parked.put(prompt);
        }
        // Of a sliding window that was there as a whole, only what it slides over is restored.
        let n_cached = self.usable(context, seq, n_cached);
        self.truncate(context, seq, n_cached)
    }

    /// Checks again whether another sequence holds more of these tokens than a request's own, and
    /// copies it; returns how many of them its own then holds.
    pub fn catch_up(
        &mut self,
        context: &mut LlamaContext<'_>,
        seq: SeqId,
        tokens: &[LlamaToken],
    ) -> usize {
        let own = self.cells.get(seq).len();
        match self.longest_sequence(context, tokens) {
            Some((from, n_cached)) if n_cached > own => self.copy(context, from, seq, n_cached),
            _ => own,
        }
    }

    /// Notes that the context has evaluated these tokens as the next ones of a sequence.
    pub fn append(&mut self, seq: SeqId, tokens: &[LlamaToken]) {
        self.cells.append(seq, tokens);
    }

    /// Removes from the context what was evaluated after the tokens of a sequence, but not
    /// appended. `false` if it cannot: the sequence is then empty.
    pub fn trim(&mut self, context: &mut LlamaContext<'_>, seq: SeqId) -> bool {
        self.cells.trim(context, seq)
    }

    /// Ends the use of a sequence; what it holds is kept.
    pub fn release(&mut self, seq: SeqId) {
        self.cells.release(seq);
    }

    /// Ends the use of a sequence and empties it.
    pub fn discard(&mut self, context: &mut LlamaContext<'_>, seq: SeqId) {
        self.cells.release(seq);
        self.cells.clear(context, seq);
    }

    /// Forgets everything: the cells, their bytes, what is parked, and the checkpoints.
    pub fn reset(&mut self, context: &mut LlamaContext<'_>) {
        self.cells.reset(context);
        self.parked = HostCache::default();
        self.checkpoints.clear();
    }

    /// Parks the least recently used of what is kept. `false` if nothing is.
    pub fn park_oldest(&mut self, context: &mut LlamaContext<'_>) -> bool {
        let kept = self.cells.ids().filter(|seq| {
            let sequence = self.cells.get(*seq);
            !sequence.in_use && !sequence.is_empty()
        });
        let oldest = kept.min_by_key(|seq| self.cells.get(*seq).last_used);
        if let Some(seq) = oldest {
            self.park(context, seq);
        }
        oldest.is_some()
    }

    fn park_all(&mut self, context: &mut LlamaContext<'_>) {
        while self.park_oldest(context) {}
    }

    /// Moves what a sequence holds to the host cache.
    fn park(&mut self, context: &mut LlamaContext<'_>, seq: SeqId) {
        if HostCache::wants(self.cells.get(seq).len())
            && let Some(copy) = self.copied_out(context, seq)
        {
            self.parked.put(copy);
        }
        self.cells.clear(context, seq);
    }

    fn copied_out(&self, context: &LlamaContext<'_>, seq: SeqId) -> Option<ParkedPrompt> {
        let sequence = self.cells.get(seq);
        let can_truncate = Cells::is_complete(context, seq) && !self.checkpoints.needed();
        let (tokens, n_prompt) = (sequence.tokens(), sequence.n_prompt);
        ParkedPrompt::new(context, seq, tokens, n_prompt, can_truncate)
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
        let parked = self.parked.find(wanted, &self.checkpoints);
        let sequence = self.longest_sequence(context, tokens);
        match (sequence, parked) {
            (Some((seq, n)), Some((_, more))) if n >= more => Some(Source::Sequence(seq, n)),
            (_, Some((index, n))) => Some(Source::Parked(index, n)),
            (Some((seq, n)), None) => Some(Source::Sequence(seq, n)),
            (None, None) => None,
        }
    }

    /// The sequence that holds most of these tokens but the last, and how many.
    fn longest_sequence(
        &self,
        context: &LlamaContext<'_>,
        tokens: &[LlamaToken],
    ) -> Option<(SeqId, usize)> {
        let wanted = &tokens[..tokens.len().saturating_sub(1)];
        let usable = |seq| {
            let common = common_prefix(self.cells.get(seq).tokens(), wanted);
            self.usable(context, seq, common)
        };
        self.cells
            .ids()
            .map(|seq| (seq, usable(seq)))
            .filter(|(_, n_cached)| *n_cached > 0)
            // Of equals the one that can be taken over, and was used last.
            .max_by_key(|(seq, n_cached)| {
                let sequence = self.cells.get(*seq);
                (*n_cached, !sequence.in_use, sequence.last_used)
            })
    }

    /// Empties a sequence: one that is empty already, else the least recently used of those that are
    /// kept. `None` if all are in use.
    fn vacate(&mut self, context: &mut LlamaContext<'_>, except: Option<SeqId>) -> Option<SeqId> {
        let seq = self
            .cells
            .ids()
            .filter(|seq| Some(*seq) != except && !self.cells.get(*seq).in_use)
            .min_by_key(|seq| {
                let sequence = self.cells.get(*seq);
                (!sequence.is_empty(), sequence.last_used)
            })?;
        self.park(context, seq);
        Some(seq)
    }
}
