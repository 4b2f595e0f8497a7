//! The scheduler: which requests are queued, which are under way, and which of their tokens the
//! next batch takes.

use std::collections::VecDeque;

use llama_cpp_2::context::LlamaContext;

use crate::decode::draft::DraftOutcome;
use crate::decode::sequence::{BatchPart, Phase, Sequence};
use crate::decode::speculative::Speculator;
use crate::kv::{PrefixCache, common_prefix};

/// A request is let in if its prompt fits and it can then generate this many tokens, or all that it
/// may: else it would soon be preempted again.
const HEADROOM: usize = 64;

/// A request waits for another one to evaluate what their prompts share if that is at least this
/// many tokens.
const MIN_SHARED: usize = 16;

/// The requests for text.
pub(super) struct Scheduler {
    /// In the order of their arrival, but preempted ones first.
    queued: VecDeque<Sequence>,
    /// In the order in which they were let in.
    running: Vec<Sequence>,
    cache: PrefixCache,
    /// The most requests under way.
    n_seq_max: usize,
    /// The same after llama.cpp found no cells for more, until one of them ends.
    limit: usize,
}

impl Scheduler {
    /// No requests yet, in a context of `n_cells` cells, which may need checkpoints to be truncated.
    pub(super) fn new(n_seq_max: u32, n_cells: usize, checkpoints: bool) -> Self {
        Self {
            queued: VecDeque::new(),
            running: Vec::new(),
            cache: PrefixCache::new(n_seq_max, n_cells, checkpoints),
            n_seq_max: n_seq_max as usize,
            limit: n_seq_max as usize,
        }
    }

    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.queued.is_empty() && self.running.is_empty()
    }

    /// What is kept of earlier requests.
    pub(super) fn cache(&mut self) -> &mut PrefixCache {
        &mut self.cache
    }

    /// The requests under way.
    pub(super) fn running(&mut self) -> &mut [Sequence] {
        &mut self.running
    }

    /// Queues a request.
    pub(super) fn push(&mut self, sequence: Sequence) {
        self.queued.push_back(sequence);
    }

    /// Cancels a request. What it has evaluated is kept. `false` if it is not here.
    pub(super) fn cancel(&mut self, id: u64) -> bool {
        if let Some(index) = self.queued.iter().position(|s| s.id == id) {
            self.queued.remove(index);
            return true;
        }
        let running = self.running.iter().position(|s| s.id == id);
        if let Some(index) = running {
            self.retire(index);
        }
        running.is_some()
    }

    /// Takes out a request under way, by its index; what it has evaluated is kept.
    pub(super) fn retire(&mut self, index: usize) -> Sequence {
        let sequence = self.running.remove(index);
        self.cache.release(sequence.seq);
        sequence
    }

    /// Takes out a request under way, by its index, and forgets what it has evaluated.
    pub(super) fn discard(&mut self, context: &mut LlamaContext<'_>, index: usize) -> Sequence {
        let sequence = self.running.remove(index);
        self.cache.discard(context, sequence.seq);
        sequence
    }

    /// How many tokens of each request under way the next batch takes: one of each that generates,
    /// and of the prompts up to `chunk` in all, the older ones first. Never more than `n_batch`, and
    /// never more than there are cells.
    pub(super) fn plan(
        &mut self,
        context: &mut LlamaContext<'_>,
        chunk: usize,
        n_batch: usize,
    ) -> Vec<usize> {
        self.admit(context);
        self.end_waits(context);
        if let [alone] = &mut self.running[..]
            && self.cache.is_interleaved()
        {
            let n_evaluated = self.cache.compact(context, alone.seq);
            alone.moved(n_evaluated);
        }
        loop {
            let plan = self.share(chunk, n_batch);
            let n_tokens = plan.iter().sum::<usize>();
            if n_tokens <= self.cache.free() || !self.free_cells(context) {
                return plan;
            }
        }
    }

    /// Frees cells: parks what is kept, else preempts the request that was let in last. `false` if
    /// there is only one and nothing is kept.
    fn free_cells(&mut self, context: &mut LlamaContext<'_>) -> bool {
        if self.cache.park_oldest(context) {
            return true;
        }
        if self.running.len() < 2 {
            return false;
        }
        let mut youngest = self.discard(context, self.running.len() - 1);
        youngest.preempt();
        self.queued.push_front(youngest);
        true
    }

    /// Empties the context, down to its bytes, and has all requests under way start again, each
    /// alone until it is past where it was. This is for logits that are not finite: NaN spreads even
    /// from cells that a sequence does not attend to, since 0 times NaN is NaN, so nobody can tell
    /// whose it is.
    pub(super) fn start_over(&mut self, context: &mut LlamaContext<'_>) {
        self.cache.reset(context);
        while let Some(mut sequence) = self.running.pop() {
            sequence.preempt();
            sequence.suspect = true;
            self.queued.push_front(sequence);
        }
    }

    /// Frees cells after llama.cpp has found none for a batch. A sliding window has cells of its
    /// own, which are not counted here; so no other request is let in for a preempted one until
    /// one ends.
    pub(super) fn free_cells_and_limit(&mut self, context: &mut LlamaContext<'_>) -> bool {
        let freed = self.free_cells(context);
        self.limit = self.limit.min(self.running.len().max(1));
        freed
    }

    /// Notes that the batch was evaluated, with these parts of the requests under way, and takes the
    /// checkpoints that are due.
    pub(super) fn append(&mut self, context: &LlamaContext<'_>, parts: &[BatchPart]) {
        for (sequence, part) in self.running.iter_mut().zip(parts) {
            let start = sequence.n_evaluated();
            let end = start + part.n_tokens;
            let tokens = &sequence.tokens()[start..end];
            self.cache.append(sequence.seq, tokens);
            let due = self.cache.checkpoint_due(end - sequence.last_checkpoint);
            if part.n_tokens > 0 && (due || sequence.checkpoint_at.contains(&end)) {
                self.cache.checkpoint(context, sequence.seq);
                sequence.last_checkpoint = end;
            }
        }
    }

    /// Notes which tokens of the draft of a request under way, by its index, were accepted, and
    /// removes the others from the context.
    pub(super) fn append_draft(&mut self, context: &mut LlamaContext<'_>, index: usize) {
        let sequence = &mut self.running[index];
        let Some(DraftOutcome { accepted, rejected }) = sequence.take_draft_outcome() else {
            return;
        };
        let end = sequence.n_evaluated();
        let tokens = &sequence.tokens()[end - accepted..end];
        self.cache.append(sequence.seq, tokens);
        if rejected > 0 && !self.cache.trim(context, sequence.seq) {
            sequence.moved(0);
        }
    }

    /// Gives drafts to the requests under way, beside the tokens that the next batch takes of each;
    /// never more than `n_batch` tokens in all.
    pub(super) fn draft(&mut self, speculator: &Speculator, plan: &[usize], n_batch: usize) {
        let planned = plan.iter().sum::<usize>();
        let space = self.cache.free().min(n_batch).saturating_sub(planned);
        speculator.draft(&mut self.running, plan, space);
    }

    /// Lets queued requests in, in their order, as long as they fit.
    fn admit(&mut self, context: &mut LlamaContext<'_>) {
        if self.running.len() < self.limit {
            self.limit = self.n_seq_max;
        }
        while self.running.len() < self.limit {
            if !self.queued.front().is_some_and(|next| self.fits(next)) {
                return;
            }
            let Some(mut next) = self.queued.pop_front() else {
                return;
            };
            let assignment = if self.running.is_empty() && self.queued.is_empty() {
                self.cache.assign_alone(context, next.tokens(), next.reuse)
            } else {
                self.cache.assign(context, next.tokens(), next.reuse)
            };
            let Some(assignment) = assignment else {
                self.queued.push_front(next);
                return;
            };
            let leader = self.leader(&next);
            let leader = leader.filter(|(_, shared)| *shared >= assignment.n_cached + MIN_SHARED);
            next.start(assignment);
            if let Some((leader, shared)) = leader {
                next.phase = Phase::WaitOther { leader, shared };
                let leader = self.running.iter_mut().find(|s| s.id == leader);
                if let Some(leader) = leader.filter(|_| self.cache.needs_checkpoints()) {
                    leader.checkpoint_at.push(shared);
                }
            }
            self.running.push(next);
        }
    }

    /// Whether a request fits beside those under way. Alone it has the whole context.
    fn fits(&self, next: &Sequence) -> bool {
        if self.running.is_empty() {
            return true;
        }
        if next.suspect || self.running.iter().any(|other| other.suspect) {
            return false;
        }
        let shared = self.leader(next).map_or(0, |(_, shared)| shared);
        let reserved: usize = self
            .running
            .iter()
            .map(|sequence| {
                let n_held = match sequence.phase {
                    Phase::WaitOther { shared, .. } => shared.max(sequence.n_evaluated()),
                    _ => sequence.n_evaluated(),
                };
                sequence.tokens().len() - n_held + sequence.max_left().min(HEADROOM)
            })
            .sum();
        let wanted = next.tokens().len() - shared + next.max_left().min(HEADROOM);
        reserved + wanted <= self.cache.max_free()
    }

    /// The request under way that has the longest prefix in common with this one, and its length.
    fn leader(&self, next: &Sequence) -> Option<(u64, usize)> {
        let wanted = &next.tokens()[..next.tokens().len() - 1];
        let others = self.running.iter().filter(|_| next.reuse);
        others
            .map(|other| (other.id, common_prefix(other.tokens(), wanted)))
            .max_by_key(|(_, shared)| *shared)
    }

    /// Has those go on that waited for another one to evaluate what they share, if it has, or if it
    /// no longer will.
    fn end_waits(&mut self, context: &mut LlamaContext<'_>) {
        for index in 0..self.running.len() {
            let Phase::WaitOther { leader, shared } = self.running[index].phase else {
                continue;
            };
            let leader = self.running.iter().find(|s| s.id == leader);
            let wait = leader.is_some_and(|leader| {
                let can_truncate = PrefixCache::is_complete(context, leader.seq)
                    || leader.checkpoint_at.contains(&shared);
                leader.n_evaluated() < shared && can_truncate
            });
            if wait {
                continue;
            }
            let follower = &mut self.running[index];
            let tokens = follower.tokens();
            let n_cached = self.cache.catch_up(context, follower.seq, tokens);
            follower.skip(n_cached);
        }
    }

    fn share(&self, chunk: usize, n_batch: usize) -> Vec<usize> {
        let generating = self.running.iter().filter(|s| s.n_pending() == 1).count();
        let mut single = generating.min(n_batch);
        let mut of_prompts = chunk.min(n_batch - single);
        let takes = |sequence: &Sequence| {
            let left = match sequence.n_pending() {
                _ if matches!(sequence.phase, Phase::WaitOther { .. }) => return 0,
                1 => &mut single,
                _ => &mut of_prompts,
            };
            let n_tokens = sequence.max_in_batch().min(*left);
            *left -= n_tokens;
            n_tokens
        };
        self.running.iter().map(takes).collect()
    }
}
