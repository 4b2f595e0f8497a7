//! The requests for embeddings: those that are queued, and those whose texts are evaluated together.

use std::collections::VecDeque;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;

use crate::bridge_link::Reports;
use crate::embedding::embedder::{Embedder, Input, Run};
use crate::tuning::{StepEstimator, Threads};
use llama_cpp_bridge::shared::failure::Failure;
use llama_cpp_bridge::shared::message::Answer;
use llama_cpp_bridge::shared::settings::ModelParams;

/// The most tokens of all texts that are evaluated together, unless it is a single text: their context
/// takes memory in proportion.
const MAX_TOKENS: usize = 2048;

/// The requests for embeddings.
pub struct EmbedQueue<'model> {
    embedder: Embedder<'model>,
    queued: VecDeque<(u64, Input)>,
    /// The texts that are evaluated together now.
    run: Option<Run<'model>>,
    /// The numbers of their requests; `None` for one that was cancelled.
    running: Vec<Option<u64>>,
    /// The most texts at a time.
    n_parallel: usize,
}

impl<'model> EmbedQueue<'model> {
    /// No requests yet.
    pub fn new(
        backend: &'model LlamaBackend,
        model: &'model LlamaModel,
        load: &'model ModelParams,
        context_size: u32,
    ) -> Self {
        Self {
            embedder: Embedder::new(backend, model, load, context_size),
            queued: VecDeque::new(),
            run: None,
            running: Vec::new(),
            n_parallel: load.parallel as usize,
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.queued.is_empty() && self.run.is_none()
    }

    /// Queues a request.
    ///
    /// # Errors
    /// A text that cannot be embedded.
    pub fn push(&mut self, id: u64, text: &str) -> Result<(), Failure> {
        let input = self.embedder.input(text)?;
        self.queued.push_back((id, input));
        Ok(())
    }

    /// Cancels a request. `false` if it is not here.
    pub fn cancel(&mut self, id: u64) -> bool {
        if let Some(index) = self.queued.iter().position(|(queued, _)| *queued == id) {
            self.queued.remove(index);
            return true;
        }
        let found = self.running.iter_mut().find(|one| **one == Some(id));
        let found = found.map(|one| *one = None).is_some();
        if self.running.iter().all(Option::is_none) {
            self.run = None;
            self.running.clear();
        }
        found
    }

    /// Evaluates the next part of the texts, at most a prompt chunk, and answers the requests whose
    /// texts are done.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn step(
        &mut self,
        step_estimator: &mut StepEstimator,
        threads: &mut Threads,
        reports: &mut Reports<'_>,
    ) -> Result<(), String> {
        if self.run.is_none() {
            self.begin(reports)?;
        }
        let Some(run) = &mut self.run else {
            return Ok(());
        };
        let n_tokens = run.next_tokens(step_estimator.chunk());
        reports.step(step_estimator.expected(n_tokens))?;
        threads.before(n_tokens);
        match run.step(n_tokens) {
            Ok(n_tokens) => step_estimator.learn(n_tokens, n_tokens, threads.after()),
            Err(failure) => {
                self.run = None;
                return self.answer_all(|_| Err(failure.clone()), reports);
            }
        }
        if let Some(run) = self.run.take_if(|run| run.is_done()) {
            let embeddings = run.finish();
            return self.answer_all(
                |index| embeddings[index].clone().map(Answer::Embedding),
                reports,
            );
        }
        Ok(())
    }

    /// Starts on the texts that were queued first.
    fn begin(&mut self, reports: &mut Reports<'_>) -> Result<(), String> {
        let mut inputs = Vec::new();
        let mut n_tokens = 0;
        while let Some((_, next)) = self.queued.front()
            && inputs.len() < self.n_parallel
            && (inputs.is_empty() || n_tokens + next.len() <= MAX_TOKENS)
        {
            n_tokens += next.len();
            if let Some((id, input)) = self.queued.pop_front() {
                self.running.push(Some(id));
                inputs.push(input);
            }
        }
        if inputs.is_empty() {
            return Ok(());
        }
        match self.embedder.start(inputs) {
            Ok(run) => {
                self.run = Some(run);
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
        let requests = std::mem::take(&mut self.running);
        for (index, request) in requests.into_iter().enumerate() {
            if let Some(id) = request {
                reports.answer(id, outcome(index))?;
            }
        }
        Ok(())
    }

    /// Embeds one token, to see whether the model can.
    ///
    /// # Errors
    /// A model that cannot do it.
    pub fn try_out(&self) -> Result<(), Failure> {
        self.embedder.try_out()
    }
}
