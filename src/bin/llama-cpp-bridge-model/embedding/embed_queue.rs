//! The requests for embeddings: those that wait, and those whose texts are in one batch.

use std::collections::VecDeque;

use crate::bridge_link::Reports;
use crate::embedding::embedder::{Embedder, Job, Text};
use crate::tuning::step_estimator::StepEstimator;
use crate::tuning::threads::Threads;
use llama_cpp_bridge::shared::failure::Failure;
use llama_cpp_bridge::shared::message::Answer;

/// Tokens of all texts of a job together at the most, unless it is a single text: their context
/// takes memory in proportion.
const JOB_TOKENS: usize = 2048;

/// Requests for embeddings.
pub(crate) struct Embeds<'model> {
    embedder: Embedder<'model>,
    waiting: VecDeque<(u64, Text)>,
    /// The texts that are being embedded together.
    job: Option<Job<'model>>,
    /// The requests that they are of; `None` for one that was given up.
    under_way: Vec<Option<u64>>,
    /// Texts of a job at the most.
    places: usize,
}

impl<'model> Embeds<'model> {
    /// None yet.
    pub(crate) fn new(embedder: Embedder<'model>, places: u32) -> Self {
        Self {
            embedder,
            waiting: VecDeque::new(),
            job: None,
            under_way: Vec::new(),
            places: places as usize,
        }
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.job.is_none()
    }

    /// Lets a request wait for its turn.
    ///
    /// # Errors
    /// A text that cannot be embedded.
    pub(crate) fn push(&mut self, id: u64, text: &str) -> Result<(), Failure> {
        let text = self.embedder.text(text)?;
        self.waiting.push_back((id, text));
        Ok(())
    }

    /// Gives a request up. `false` if it is not here.
    pub(crate) fn cancel(&mut self, id: u64) -> bool {
        if let Some(at) = self.waiting.iter().position(|(waits, _)| *waits == id) {
            self.waiting.remove(at);
            return true;
        }
        let found = self.under_way.iter_mut().find(|one| **one == Some(id));
        let here = found.map(|one| *one = None).is_some();
        if self.under_way.iter().all(Option::is_none) {
            self.job = None;
            self.under_way.clear();
        }
        here
    }

    /// Evaluates the next part of the texts under way, a prompt chunk at the most, and answers
    /// those that are done.
    ///
    /// # Errors
    /// Those of the socket.
    pub(crate) fn step(
        &mut self,
        pace: &mut StepEstimator,
        threads: &mut Threads,
        reports: &mut Reports<'_>,
    ) -> Result<(), String> {
        if self.job.is_none() {
            self.begin(reports)?;
        }
        let Some(job) = &mut self.job else {
            return Ok(());
        };
        let room = job.room(pace.chunk());
        reports.step(pace.expected(room))?;
        threads.before(room);
        match job.step(room) {
            Ok(tokens) => pace.learn(tokens, tokens, threads.after()),
            Err(failure) => {
                self.job = None;
                return self.answer_all(|_| Err(failure.clone()), reports);
            }
        }
        if let Some(job) = self.job.take_if(|job| job.done()) {
            let embeddings = job.finish();
            return self.answer_all(|at| embeddings[at].clone().map(Answer::Embedding), reports);
        }
        Ok(())
    }

    /// Takes the texts that have waited longest into one job.
    fn begin(&mut self, reports: &mut Reports<'_>) -> Result<(), String> {
        let mut texts = Vec::new();
        let mut tokens = 0;
        while let Some((_, next)) = self.waiting.front()
            && texts.len() < self.places
            && (texts.is_empty() || tokens + next.len() <= JOB_TOKENS)
        {
            tokens += next.len();
            if let Some((id, text)) = self.waiting.pop_front() {
                self.under_way.push(Some(id));
                texts.push(text);
            }
        }
        if texts.is_empty() {
            return Ok(());
        }
        match self.embedder.start(texts) {
            Ok(job) => {
                self.job = Some(job);
                Ok(())
            }
            Err(failure) => self.answer_all(|_| Err(failure.clone()), reports),
        }
    }

    fn answer_all(
        &mut self,
        outcome: impl Fn(usize) -> Result<Answer, Failure>,
        reports: &mut Reports<'_>,
    ) -> Result<(), String> {
        let requests = std::mem::take(&mut self.under_way);
        for (at, request) in requests.into_iter().enumerate() {
            if let Some(id) = request {
                reports.answer(id, outcome(at))?;
            }
        }
        Ok(())
    }

    /// Embeds one token, to see whether the model can.
    ///
    /// # Errors
    /// A model that cannot do it.
    pub(crate) fn try_out(&self) -> Result<(), Failure> {
        self.embedder.try_out()
    }
}
