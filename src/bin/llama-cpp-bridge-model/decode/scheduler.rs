//! Whose turn it is: the requests that wait, those that are under way, and which of their tokens
//! the next batch takes.

use std::collections::VecDeque;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::token::LlamaToken;

use crate::decode::sequence::Sequence;
use crate::decode::speculative::Speculator;
use crate::kv::cells::Cells;
use crate::kv::prefix_cache::Cache;

/// Tokens that a request which has to generate so many or more must find room for beside its
/// prompt: else it would soon have to make way again.
const FORESIGHT: usize = 64;

/// A request waits for another one to evaluate what their prompts share, if that is at least so
/// many tokens.
const WORTH_WAITING: usize = 16;

/// The requests for text.
pub(crate) struct Queue {
    /// In the order in which they came, but those that had to make way stand before.
    waiting: VecDeque<Sequence>,
    /// In the order in which they were let in.
    running: Vec<Sequence>,
    cache: Cache,
    /// Requests under way at the most.
    places: usize,
    /// The same, after llama.cpp has found no room for more, until one of them leaves.
    narrowed: usize,
}

impl Queue {
    /// Nobody's turn yet, in a context of so many cells, which may need checkpoints to be cut.
    pub(crate) fn new(places: u32, cells: usize, checkpoints: bool) -> Self {
        Self {
            waiting: VecDeque::new(),
            running: Vec::new(),
            cache: Cache::new(places, cells, checkpoints),
            places: places as usize,
            narrowed: places as usize,
        }
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// What is kept of the requests before.
    pub(crate) fn cache(&mut self) -> &mut Cache {
        &mut self.cache
    }

    /// The requests under way.
    pub(crate) fn running(&mut self) -> &mut [Sequence] {
        &mut self.running
    }

    /// Lets a request wait for its turn.
    pub(crate) fn push(&mut self, sequence: Sequence) {
        self.waiting.push_back(sequence);
    }

    /// Gives a request up, by its number. What it has evaluated is kept. `false` if it is not
    /// here.
    pub(crate) fn cancel(&mut self, id: u64) -> bool {
        if let Some(at) = self.waiting.iter().position(|s| s.id == id) {
            self.waiting.remove(at);
            return true;
        }
        let running = self.running.iter().position(|s| s.id == id);
        if let Some(at) = running {
            self.retire(at);
        }
        running.is_some()
    }

    /// Takes out a request under way, by its index; what it has evaluated is kept.
    pub(crate) fn retire(&mut self, at: usize) -> Sequence {
        let sequence = self.running.remove(at);
        self.cache.leave(sequence.place);
        sequence
    }

    /// Takes out a request under way, by its index, and forgets what it has evaluated.
    pub(crate) fn discard(&mut self, context: &mut LlamaContext<'_>, at: usize) -> Sequence {
        let sequence = self.running.remove(at);
        self.cache.drop(context, sequence.place);
        sequence
    }

    /// Says how many tokens of each request under way the next batch is to take: one of each that
    /// generates, and of the prompts up to `chunk` in all, the older ones first. Never more than
    /// `most`, and never more than there are cells.
    pub(crate) fn plan(
        &mut self,
        context: &mut LlamaContext<'_>,
        chunk: usize,
        most: usize,
    ) -> Vec<usize> {
        self.admit(context);
        self.settle_followers(context);
        if let [alone] = &mut self.running[..]
            && self.cache.is_mixed()
        {
            let known = self.cache.settle(context, alone.place);
            alone.moved(known);
        }
        loop {
            let plan = self.share(chunk, most);
            let tokens = plan.iter().sum::<usize>();
            if tokens <= self.cache.free() || !self.make_room(context) {
                return plan;
            }
        }
    }

    /// Frees cells: of what is kept, else of the request that was let in last, which then waits
    /// again. `false` if there is only one and nothing is kept.
    pub(crate) fn make_room(&mut self, context: &mut LlamaContext<'_>) -> bool {
        if self.cache.give_up_one(context) {
            return true;
        }
        if self.running.len() < 2 {
            return false;
        }
        let mut youngest = self.discard(context, self.running.len() - 1);
        youngest.rise();
        self.waiting.push_front(youngest);
        true
    }

    /// Empties the context, down to its bytes, and lets all under way start again, each alone until
    /// it is past where it was. For what is not a number: it spreads even from cells that a
    /// request does not attend to, since 0 times it is not a number either, so nobody can tell
    /// whose it is.
    pub(crate) fn start_over(&mut self, context: &mut LlamaContext<'_>) {
        self.cache.reset(context);
        while let Some(mut sequence) = self.running.pop() {
            sequence.rise();
            sequence.suspect = true;
            self.waiting.push_front(sequence);
        }
    }

    /// Frees cells after llama.cpp has found no room for a batch, as [`make_room`](Self::make_room)
    /// does. A window that slides has cells of its own, which nobody counts here; so nobody is let
    /// in for one that had to make way until another one has left.
    pub(crate) fn narrow(&mut self, context: &mut LlamaContext<'_>) -> bool {
        let freed = self.make_room(context);
        self.narrowed = self.narrowed.min(self.running.len().max(1));
        freed
    }

    /// Notes that the batch was evaluated, with so many tokens of each request under way, and takes
    /// the checkpoints that are due.
    pub(crate) fn note(&mut self, context: &LlamaContext<'_>, added: &[usize]) {
        for (sequence, added) in self.running.iter_mut().zip(added) {
            let start = sequence.evaluated();
            let end = start + added;
            let tokens = &sequence.tokens()[start..end];
            self.cache.note(sequence.place, tokens);
            let due = self.cache.is_mark_due(end - sequence.marked);
            if *added > 0 && (due || sequence.stops.contains(&end)) {
                self.cache.mark(context, sequence.place);
                sequence.marked = end;
            }
        }
    }

    /// Notes which guesses of a request under way, by its index, were right, and takes the others
    /// out of the context.
    pub(crate) fn settle_guesses(&mut self, context: &mut LlamaContext<'_>, at: usize) {
        let sequence = &mut self.running[at];
        let Some((right, wrong)) = sequence.verdict() else {
            return;
        };
        let end = sequence.evaluated();
        let tokens = &sequence.tokens()[end - right..end];
        self.cache.note(sequence.place, tokens);
        if wrong > 0 && !self.cache.trim(context, sequence.place) {
            sequence.moved(0);
        }
    }

    /// Lets the requests under way guess, beside the tokens that the next batch takes of each;
    /// never more than `most` tokens in all.
    pub(crate) fn guess(&mut self, guessing: &Speculator, plan: &[usize], most: usize) {
        let planned = plan.iter().sum::<usize>();
        let room = self.cache.free().min(most).saturating_sub(planned);
        guessing.prepare(&mut self.running, plan, room);
    }

    /// Lets in who waits, in turn, as long as there are places and room.
    fn admit(&mut self, context: &mut LlamaContext<'_>) {
        if self.running.len() < self.narrowed {
            self.narrowed = self.places;
        }
        while self.running.len() < self.narrowed {
            if !self.waiting.front().is_some_and(|next| self.fits(next)) {
                return;
            }
            let Some(mut next) = self.waiting.pop_front() else {
                return;
            };
            let seat = if self.running.is_empty() && self.waiting.is_empty() {
                self.cache.take_alone(context, next.tokens(), next.reuse)
            } else {
                self.cache.take(context, next.tokens(), next.reuse)
            };
            let Some(seat) = seat else {
                self.waiting.push_front(next);
                return;
            };
            let leader = self.leader(&next);
            next.follows = leader.filter(|(_, shared)| *shared >= seat.known + WORTH_WAITING);
            next.sit(seat);
            if self.cache.needs_checkpoints()
                && let Some((leader, shared)) = next.follows
                && let Some(leader) = self.running.iter_mut().find(|s| s.id == leader)
            {
                leader.stops.push(shared);
            }
            self.running.push(next);
        }
    }

    /// Whether there is room for a request beside those under way. Alone it has the whole context.
    fn fits(&self, next: &Sequence) -> bool {
        if self.running.is_empty() {
            return true;
        }
        if next.suspect || self.running.iter().any(|other| other.suspect) {
            return false;
        }
        let shared = self.leader(next).map_or(0, |(_, shared)| shared);
        let promised: usize = self
            .running
            .iter()
            .map(|sequence| {
                let known = sequence.follows.map_or(0, |(_, shared)| shared);
                let rest = sequence.tokens().len() - known.max(sequence.evaluated());
                rest + sequence.left().min(FORESIGHT)
            })
            .sum();
        let wanted = next.tokens().len() - shared + next.left().min(FORESIGHT);
        promised + wanted <= self.cache.free_at_most()
    }

    /// The request under way that has most of its tokens in common with this one, and how many.
    fn leader(&self, next: &Sequence) -> Option<(u64, usize)> {
        let wanted = &next.tokens()[..next.tokens().len() - 1];
        let others = self.running.iter().filter(|_| next.reuse);
        others
            .map(|other| (other.id, common(other.tokens(), wanted)))
            .max_by_key(|(_, shared)| *shared)
    }

    /// Lets those go on that waited for another one to evaluate what they share.
    fn settle_followers(&mut self, context: &mut LlamaContext<'_>) {
        for at in 0..self.running.len() {
            let Some((leader, shared)) = self.running[at].follows else {
                continue;
            };
            let leader = self.running.iter().find(|s| s.id == leader);
            let ahead = leader.is_some_and(|leader| {
                let can_cut = Cells::whole(context, leader.place) || leader.stops.contains(&shared);
                leader.evaluated() < shared && can_cut
            });
            if ahead {
                continue;
            }
            let follower = &mut self.running[at];
            let known = self
                .cache
                .catch_up(context, follower.place, follower.tokens());
            follower.skip(known);
            follower.follows = None;
        }
    }

    fn share(&self, chunk: usize, most: usize) -> Vec<usize> {
        let generating = self.running.iter().filter(|s| s.pending() == 1).count();
        let mut first = generating.min(most);
        let mut room = chunk.min(most - first);
        let takes = |sequence: &Sequence| {
            let left = match sequence.pending() {
                _ if sequence.follows.is_some() => return 0,
                1 => &mut first,
                _ => &mut room,
            };
            let count = sequence.reach().min(*left);
            *left -= count;
            count
        };
        self.running.iter().map(takes).collect()
    }
}

fn common(a: &[LlamaToken], b: &[LlamaToken]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
