//! The loop of the model process: receives requests, evaluates what all of them need in one batch,
//! samples the next token of each, and answers those that are finished.

use std::iter;
use std::mem;
use std::rc::Rc;

use llama_cpp_2::DecodeError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;

use crate::bridge_link::{Reports, next_message};
use crate::decode::scheduler::Scheduler;
use crate::decode::sequence::{BatchPart, Sequence, StepResult};
use crate::decode::speculative::Speculator;
use crate::embedding::{EmbedQueue, only_embeds};
use crate::kv::{SavedStates, needs_checkpoints};
use crate::load;
use crate::sampling::{TokenIndex, check_logits, not_finite};
use crate::text::{self, Template};
use crate::tuning::{StepEstimator, Threads, requested_threads};
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::link::{Link, Received};
use llama_cpp_bridge::shared::message::{Answer, FinishReason, Generate, State, ToModel, Work};
use llama_cpp_bridge::shared::parts;
use llama_cpp_bridge::shared::settings::ModelParams;

/// The bridge refuses SAVE and RESTORE itself in this case.
const NO_STATES: &str = "the bridge asks for saved states, but named no directory for them";

/// The answer to SAVE and RESTORE.
type StateAnswer = Result<State, Failure>;

/// A loaded model, and the requests for it.
pub struct Engine<'model> {
    model: &'model LlamaModel,
    context: LlamaContext<'model>,
    context_size: u32,
    /// How many requests may come at once.
    parallel: u32,
    batch: LlamaBatch<'static>,
    batch_size: usize,
    template: Option<Template>,
    only_embeds: bool,
    token_index: Rc<TokenIndex>,
    /// The requests for text.
    scheduler: Scheduler,
    /// The requests for embeddings.
    embed_queue: EmbedQueue<'model>,
    /// `None` without a directory for them.
    states: Option<SavedStates>,
    step_estimator: StepEstimator,
    threads: Threads,
    speculator: Speculator,
}

impl<'model> Engine<'model> {
    /// No requests yet, for this model.
    ///
    /// # Errors
    /// A model file that can no longer be read.
    pub fn new(
        backend: &'model LlamaBackend,
        model: &'model LlamaModel,
        context: LlamaContext<'model>,
        load: &'model ModelParams,
        context_size: u32,
        template: Option<Template>,
    ) -> Result<Self, String> {
        let batch_size = context.n_batch() as usize;
        let on_gpu = backend.supports_gpu_offload() && load.gpu_layers != Some(0);
        let threads = requested_threads(load).batch;
        let step_estimator = StepEstimator::new(model.n_params(), threads, on_gpu, batch_size);
        let n_seq_max = load::n_seq_max(load, context_size);
        let checkpoints = needs_checkpoints(model, &context, load.swa_full);
        // What cannot be truncated at any token cannot take a draft back.
        let max_draft = if checkpoints { 0 } else { load.spec_ngram };
        let scheduler = Scheduler::new(n_seq_max, context.n_ctx() as usize, checkpoints);
        Ok(Self {
            model,
            context,
            context_size,
            parallel: load.parallel,
            batch: LlamaBatch::new(batch_size, 1),
            batch_size,
            template,
            only_embeds: only_embeds(model),
            token_index: Rc::default(),
            scheduler,
            embed_queue: EmbedQueue::new(backend, model, load, context_size),
            states: SavedStates::new(load, context_size),
            step_estimator,
            threads: Threads::new(load),
            speculator: Speculator::new(max_draft),
        })
    }

    /// Evaluates and samples one token: most files that crash llama.cpp do so here, before anyone
    /// relies on the model.
    ///
    /// # Errors
    /// A model that cannot do it.
    pub fn try_out(&mut self) -> Result<(), String> {
        if self.only_embeds {
            return self
                .embed_queue
                .try_out()
                .map_err(|failure| failure.message);
        }
        let bos = self.model.vocab().bos();
        let token = if bos.0 >= 0 { bos } else { LlamaToken::new(0) };
        self.batch.clear();
        self.batch
            .add(token, 0, &[0], true)
            .map_err(|error| error.to_string())?;
        self.context
            .decode(&mut self.batch)
            .map_err(|error| format!("cannot evaluate a token: {error}"))?;
        check_logits(self.context.get_logits_ith(0)).map_err(|failure| failure.message)?;
        let _ = LlamaSampler::greedy().sample(&self.context, 0);
        self.threads.tune(|| {
            self.context.clear_kv_cache();
            let decoded = self.context.decode(&mut self.batch);
            self.context.synchronize();
            decoded.map_err(|error| format!("cannot evaluate a token: {error}"))
        })?;
        self.context.clear_kv_cache();
        Ok(())
    }

    /// Serves requests until the bridge is gone.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn serve(&mut self, link: &mut Link) -> Result<(), String> {
        let mut reports = Reports::new(link);
        loop {
            let idle = self.scheduler.is_empty() && self.embed_queue.is_empty();
            match next_message(reports.link, idle)? {
                Received::Message(message) => self.receive(message, &mut reports)?,
                Received::End => return Ok(()),
                Received::Nothing => {
                    // In turns, so that neither requests for text nor those for embeddings wait
                    // until all of the others are done.
                    self.step_estimator.set_thread_part(self.threads.part());
                    self.embed_queue.step(
                        &mut self.step_estimator,
                        &mut self.threads,
                        &mut reports,
                    )?;
                    if !self.scheduler.is_empty() {
                        self.step(&mut reports)?;
                    }
                }
            }
        }
    }

    /// Answers a request at once, or queues it.
    fn receive(&mut self, message: ToModel, reports: &mut Reports<'_>) -> Result<(), String> {
        let (id, work) = match message {
            ToModel::Work(id, work) => (id, work),
            ToModel::Cancel(id) => return self.cancel(id, reports),
            // One process holds one model.
            ToModel::Load(_) | ToModel::Hello(_) => return Ok(()),
        };
        let outcome = match work {
            Work::Embed(text) => match self.embed_queue.push(id, &text) {
                Ok(()) => return Ok(()),
                Err(failure) => Err(failure),
            },
            Work::Generate(request) => match self.prepare(id, &request) {
                Ok(sequence) => {
                    self.scheduler.push(sequence);
                    return Ok(());
                }
                Err(failure) => Err(failure),
            },
            Work::Tokenize(text) => self.tokenize(&text),
            Work::Detokenize(ids) => self.detokenize(&ids),
            Work::Save(name) => self.save(&name, reports)?.map(Answer::State),
            Work::Restore(name) => self.restore(&name, reports)?.map(Answer::State),
        };
        reports.answer(id, outcome)
    }

    fn tokenize(&self, text: &str) -> Result<Answer, Failure> {
        let tokens = text::tokenize(self.model, text);
        let most = parts::most_tokens(self.parallel, text.len());
        if tokens.len() > most {
            let message = format!(
                "The text has {} tokens; a reply may have {most}",
                tokens.len()
            );
            return Err(Failure::bad_request(message));
        }
        Ok(Answer::Tokens(tokens))
    }

    fn detokenize(&self, ids: &[i32]) -> Result<Answer, Failure> {
        let text = text::detokenize(self.model, ids)?;
        let most = parts::most_text_of_tokens(self.parallel, ids.len());
        if text.len() > most {
            let message = format!(
                "The text of the tokens has {} bytes; a reply may have {most}",
                text.len()
            );
            return Err(Failure::bad_request(message));
        }
        Ok(Answer::Text(text))
    }

    /// Saves the text that was evaluated last; nothing else is under way.
    fn save(&mut self, name: &str, reports: &mut Reports<'_>) -> Result<StateAnswer, String> {
        let cache = self.scheduler.cache();
        let states = self.states.as_ref().ok_or(NO_STATES)?;
        let Some(seq) = cache.last(&mut self.context) else {
            return Ok(Err(Failure::nothing_to_save()));
        };
        reports.step(states.time_to_save(&self.context, seq))?;
        let (tokens, n_prompt) = cache.tokens(seq);
        Ok(states.save(name, &self.context, seq, tokens, n_prompt))
    }

    /// Restores a saved text; nothing else is under way.
    fn restore(&mut self, name: &str, reports: &mut Reports<'_>) -> Result<StateAnswer, String> {
        let states = self.states.as_ref().ok_or(NO_STATES)?;
        let saved = match states.open(name) {
            Ok(saved) => saved,
            Err(failure) => return Ok(Err(failure)),
        };
        reports.step(saved.time_to_restore())?;
        Ok(states.restore(saved, &mut self.context, self.scheduler.cache()))
    }

    /// Finds everything that can be wrong with a request before it is queued.
    fn prepare(&self, id: u64, request: &Generate) -> Result<Sequence, Failure> {
        if self.only_embeds {
            let message = "The model can only embed; use EMBED";
            return Err(Failure::new(Code::Unsupported, message));
        }
        let tokens = self.tokens(request)?;
        Sequence::new(
            id,
            self.model,
            &self.token_index,
            (self.context_size, parts::most_text(self.parallel)),
            tokens,
            request,
        )
    }

    /// The tokens of a prompt, or of a conversation up to the model's turn.
    fn tokens(&self, request: &Generate) -> Result<Vec<LlamaToken>, Failure> {
        let Some(turns) = &request.messages else {
            let prompt = request.prompt.as_deref().unwrap_or_default();
            text::check_size(self.model, iter::once(prompt), "Prompt", self.context_size)?;
            return Ok(text::tokenize_prompt(self.model, prompt));
        };
        let template = self.template.as_ref().ok_or_else(|| {
            let message = "The model has no chat template; --chat-template-file gives it one";
            Failure::new(Code::Unsupported, message)
        })?;
        let segments = template.render(turns)?;
        let texts = segments.iter().map(|segment| segment.text.as_str());
        text::check_size(self.model, texts, "Prompt", self.context_size)?;
        Ok(text::tokenize_segments(self.model, &segments))
    }

    fn cancel(&mut self, id: u64, reports: &mut Reports<'_>) -> Result<(), String> {
        if !self.embed_queue.cancel(id) && !self.scheduler.cancel(id) {
            return Ok(());
        }
        reports.answer(id, Err(Failure::new(Code::Internal, "Cancelled")))
    }

    /// Evaluates one batch: of each request under way its last token or a part of its prompt.
    fn step(&mut self, reports: &mut Reports<'_>) -> Result<(), String> {
        self.step_estimator.set_thread_part(self.threads.part());
        let chunk = self.step_estimator.chunk();
        let plan = self
            .scheduler
            .plan(&mut self.context, chunk, self.batch_size);
        self.scheduler
            .draft(&self.speculator, &plan, self.batch_size);
        self.batch.clear();
        let mut parts = Vec::new();
        let mut n_prompt = 0;
        for (sequence, n_tokens) in self.scheduler.running().iter_mut().zip(plan) {
            if sequence.n_pending() > 1 {
                n_prompt += n_tokens;
            }
            parts.push(sequence.fill(&mut self.batch, n_tokens));
        }
        let n_tokens = self.batch.n_tokens() as usize;
        reports.step(self.step_estimator.expected(n_tokens))?;
        self.threads.before(n_tokens);
        match self.context.decode(&mut self.batch) {
            Ok(()) => (),
            Err(DecodeError::NoKvCacheSlot)
                if self.scheduler.free_cells_and_limit(&mut self.context) =>
            {
                return Ok(());
            }
            Err(error) => {
                let message = format!("llama.cpp cannot evaluate the batch: {error}");
                return self.fail_all(&Failure::new(Code::Internal, message), reports);
            }
        }
        self.context.synchronize();
        let took = self.threads.after();
        self.step_estimator.learn(n_tokens, n_prompt, took);
        if n_prompt == 0 {
            self.speculator.learn(n_tokens, took);
        }
        self.scheduler.append(&self.context, &parts);
        self.advance(&parts, reports)
    }

    /// Chooses the next token of each request, and answers those that are finished.
    fn advance(&mut self, parts: &[BatchPart], reports: &mut Reports<'_>) -> Result<(), String> {
        let mut index = 0;
        let mut start_over = false;
        for part in parts {
            let sequence = &mut self.scheduler.running()[index];
            let result = sequence.advance(part, self.model, &self.context);
            self.scheduler.append_draft(&mut self.context, index);
            let sequence = &mut self.scheduler.running()[index];
            match result {
                Ok(StepResult::Continue) => {
                    if sequence.stream {
                        reports.piece(sequence.id, sequence.piece())?;
                    }
                    index += 1;
                }
                Ok(StepResult::Finished(reason)) => {
                    let sequence = self.scheduler.retire(index);
                    complete(sequence, reason, reports)?;
                }
                Ok(StepResult::NotFinite) if sequence.suspect => {
                    let sequence = self.scheduler.discard(&mut self.context, index);
                    reports.answer(sequence.id, Err(not_finite()))?;
                    start_over = true;
                }
                Ok(StepResult::NotFinite) => {
                    index += 1;
                    start_over = true;
                }
                Err(failure) => {
                    let sequence = self.scheduler.discard(&mut self.context, index);
                    reports.answer(sequence.id, Err(failure))?;
                }
            }
        }
        if start_over {
            self.scheduler.start_over(&mut self.context);
        }
        Ok(())
    }

    /// Fails all requests under way; those that are queued have nothing to do with it.
    fn fail_all(&mut self, failure: &Failure, reports: &mut Reports<'_>) -> Result<(), String> {
        while !self.scheduler.running().is_empty() {
            let sequence = self.scheduler.discard(&mut self.context, 0);
            reports.answer(sequence.id, Err(failure.clone()))?;
        }
        Ok(())
    }
}

fn complete(
    mut sequence: Sequence,
    reason: FinishReason,
    reports: &mut Reports<'_>,
) -> Result<(), String> {
    let mut done = sequence.finish(reason);
    if sequence.stream {
        reports.piece(sequence.id, mem::take(&mut done.text))?;
    }
    let done = Answer::Generated(Box::new(done));
    reports.answer(sequence.id, Ok(done))
}
