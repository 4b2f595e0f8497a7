//! The loop of the model process: takes requests in, evaluates what all of them need in one
//! batch, lets each sample its next token, and answers those that are done.

use std::iter;
use std::rc::Rc;

use llama_cpp_2::DecodeError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;

use crate::bridge_link::Reports;
use crate::bridge_link::next_message;
use crate::decode::scheduler::Queue;
use crate::decode::sequence::{Progress, Sequence};
use crate::decode::speculative::Speculator;
use crate::embedding::embedder::{self, Embedder};
use crate::embedding::jobs::Embeds;
use crate::kv::checkpoints;
use crate::kv::saved_state::{self, States};
use crate::load;
use crate::sampling::logits::{check_logits, not_finite};
use crate::sampling::token_index::TokenIndex;
use crate::text::Template;
use crate::text::tokenizer;
use crate::tuning::step_time::StepEstimator;
use crate::tuning::threads::{self, Threads};
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::link::{Link, Received};
use llama_cpp_bridge::shared::message::{Answer, FinishReason, Generate, State, ToModel, Work};
use llama_cpp_bridge::shared::settings::ModelParams;

/// What comes of SAVE and RESTORE.
type Outcome = Result<State, Failure>;

/// A model at work.
pub(crate) struct Engine<'model> {
    model: &'model LlamaModel,
    context: LlamaContext<'model>,
    context_size: u32,
    batch: LlamaBatch<'static>,
    batch_size: usize,
    template: Option<Template>,
    only_embeds: bool,
    lexicon: Rc<TokenIndex>,
    /// The requests for text.
    queue: Queue,
    /// Those for embeddings.
    embeds: Embeds<'model>,
    /// Those that are saved; `None` where there is no directory for them.
    states: Option<States>,
    pace: StepEstimator,
    threads: Threads,
    guessing: Speculator,
}

impl<'model> Engine<'model> {
    /// Puts a model to work.
    ///
    /// # Errors
    /// A model file that cannot be read any more.
    pub(crate) fn new(
        backend: &'model LlamaBackend,
        model: &'model LlamaModel,
        context: LlamaContext<'model>,
        load: &'model ModelParams,
        context_size: u32,
        template: Option<Template>,
    ) -> Result<Self, String> {
        let batch_size = context.n_batch() as usize;
        let on_gpu = backend.supports_gpu_offload() && load.gpu_layers != Some(0);
        let threads = threads::asked(load).batch;
        let pace = StepEstimator::new(model.n_params(), threads, on_gpu, batch_size);
        let places = load::places(load, context_size);
        let embedder = Embedder::new(backend, model, load, context_size);
        let checkpoints = checkpoints::needed(model, &context, load.swa_full);
        // What cannot be cut cannot take a guess back.
        let guesses = if checkpoints { 0 } else { load.spec_ngram };
        let queue = Queue::new(places, context.n_ctx() as usize, checkpoints);
        Ok(Self {
            model,
            context,
            context_size,
            batch: LlamaBatch::new(batch_size, 1),
            batch_size,
            template,
            only_embeds: embedder::only_embeds(model),
            lexicon: Rc::default(),
            queue,
            embeds: Embeds::new(embedder, load.parallel),
            states: States::new(load, context_size)?,
            pace,
            threads: Threads::new(load),
            guessing: Speculator::new(guesses),
        })
    }

    /// Evaluates and samples one token: most files that kill llama.cpp do so here, before anyone
    /// relies on the model.
    ///
    /// # Errors
    /// A model that cannot do it.
    pub(crate) fn try_out(&mut self) -> Result<(), String> {
        if self.only_embeds {
            return self.embeds.try_out().map_err(|failure| failure.message);
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
        self.threads.find(|| {
            self.context.clear_kv_cache();
            let decoded = self.context.decode(&mut self.batch);
            self.context.synchronize();
            decoded.map_err(|error| format!("cannot evaluate a token: {error}"))
        })?;
        self.context.clear_kv_cache();
        Ok(())
    }

    /// Works on requests until the bridge is gone.
    ///
    /// # Errors
    /// Those of the socket.
    pub(crate) fn serve(&mut self, link: &mut Link) -> Result<(), String> {
        let mut reports = Reports::new(link);
        loop {
            let idle = self.queue.is_empty() && self.embeds.is_empty();
            match next_message(reports.link, idle)? {
                Received::Message(message) => self.take_in(message, &mut reports)?,
                Received::End => return Ok(()),
                Received::Nothing => {
                    // One step between two batches, so that neither those who generate nor those
                    // who embed wait for all of the others.
                    self.pace.on(self.threads.part());
                    self.embeds
                        .step(&mut self.pace, &mut self.threads, &mut reports)?;
                    if !self.queue.is_empty() {
                        self.step(&mut reports)?;
                    }
                }
            }
        }
    }

    /// Answers what needs no turn; lets the rest wait for its own.
    fn take_in(&mut self, message: ToModel, reports: &mut Reports<'_>) -> Result<(), String> {
        let (id, work) = match message {
            ToModel::Work(id, work) => (id, work),
            ToModel::Cancel(id) => return self.cancel(id, reports),
            // One process holds one model.
            ToModel::Load(_) | ToModel::Hello(_) => return Ok(()),
        };
        let outcome = match work {
            Work::Embed(text) => match self.embeds.push(id, &text) {
                Ok(()) => return Ok(()),
                Err(failure) => Err(failure),
            },
            Work::Generate(request) => match self.prepare(id, &request) {
                Ok(sequence) => {
                    self.queue.push(sequence);
                    return Ok(());
                }
                Err(failure) => Err(failure),
            },
            Work::Tokenize(text) => Ok(Answer::Tokens(tokenizer::tokenize(self.model, &text))),
            Work::Detokenize(ids) => tokenizer::detokenize(self.model, &ids).map(Answer::Text),
            Work::Save(name) => self.save(&name, reports)?.map(Answer::State),
            Work::Restore(name) => self.restore(&name, reports)?.map(Answer::State),
        };
        reports.answer(id, outcome)
    }

    /// Stores the text that was evaluated last; nothing else is under way.
    fn save(&mut self, name: &str, reports: &mut Reports<'_>) -> Result<Outcome, String> {
        let cache = self.queue.cache();
        let Some(states) = &self.states else {
            return Ok(Err(saved_state::no_directory()));
        };
        let Some(place) = cache.last(&mut self.context) else {
            return Ok(Err(Failure::nothing_to_save()));
        };
        reports.step(states.time_to_save(&self.context, place))?;
        let (tokens, prompt) = cache.text(place);
        Ok(states.save(name, &self.context, place, &tokens, prompt))
    }

    /// Brings back what is stored; nothing else is under way.
    fn restore(&mut self, name: &str, reports: &mut Reports<'_>) -> Result<Outcome, String> {
        let Some(states) = &self.states else {
            return Ok(Err(saved_state::no_directory()));
        };
        let saved = match states.open(name) {
            Ok(saved) => saved,
            Err(failure) => return Ok(Err(failure)),
        };
        reports.step(saved.time_to_restore())?;
        Ok(states.restore(saved, &mut self.context, self.queue.cache()))
    }

    /// All of a request that can be wrong is found out before its turn.
    fn prepare(&self, id: u64, request: &Generate) -> Result<Sequence, Failure> {
        if self.only_embeds {
            let message = "The model can only embed; EMBED is the command for it";
            return Err(Failure::new(Code::Unsupported, message));
        }
        let tokens = self.tokens(request)?;
        Sequence::new(
            id,
            self.model,
            &self.lexicon,
            self.context_size,
            tokens,
            request,
        )
    }

    /// The tokens of a prompt, or of a conversation up to the model's turn.
    fn tokens(&self, request: &Generate) -> Result<Vec<LlamaToken>, Failure> {
        let Some(turns) = &request.messages else {
            let prompt = request.prompt.as_deref().unwrap_or_default();
            tokenizer::expect_room(self.model, iter::once(prompt), "Prompt", self.context_size)?;
            return Ok(tokenizer::prompt(self.model, prompt));
        };
        let template = self.template.as_ref().ok_or_else(|| {
            let message = "The model has no chat template; --chat-template-file gives it one";
            Failure::new(Code::Unsupported, message)
        })?;
        let segments = template.render(turns)?;
        let texts = segments.iter().map(|segment| segment.text.as_str());
        tokenizer::expect_room(self.model, texts, "Prompt", self.context_size)?;
        Ok(tokenizer::rendered(self.model, &segments))
    }

    fn cancel(&mut self, id: u64, reports: &mut Reports<'_>) -> Result<(), String> {
        if !self.embeds.cancel(id) && !self.queue.cancel(id) {
            return Ok(());
        }
        reports.answer(id, Err(Failure::new(Code::Internal, "Cancelled")))
    }

    /// Evaluates one batch: of each request under way its last token or a part of its prompt.
    fn step(&mut self, reports: &mut Reports<'_>) -> Result<(), String> {
        self.pace.on(self.threads.part());
        let chunk = self.pace.chunk();
        let plan = self.queue.plan(&mut self.context, chunk, self.batch_size);
        self.queue.guess(&self.guessing, &plan, self.batch_size);
        self.batch.clear();
        let mut added = Vec::new();
        let mut prompts = 0;
        for (sequence, count) in self.queue.running().iter_mut().zip(plan) {
            if sequence.pending() > 1 {
                prompts += count;
            }
            added.push(sequence.fill(&mut self.batch, count));
        }
        let tokens = self.batch.n_tokens() as usize;
        reports.step(self.pace.expected(tokens))?;
        self.threads.before(tokens);
        match self.context.decode(&mut self.batch) {
            Ok(()) => (),
            Err(DecodeError::NoKvCacheSlot) if self.queue.narrow(&mut self.context) => {
                return Ok(());
            }
            Err(error) => {
                let message = format!("llama.cpp cannot evaluate the batch: {error}");
                return self.fail_all(&Failure::new(Code::Internal, message), reports);
            }
        }
        self.context.synchronize();
        let took = self.threads.after();
        self.pace.learn(tokens, prompts, took);
        if prompts == 0 {
            self.guessing.learn(tokens, took);
        }
        self.queue.note(&self.context, &added);
        self.advance(&added, reports)
    }

    /// Lets each request choose its next token, and takes out those that are done.
    fn advance(&mut self, added: &[usize], reports: &mut Reports<'_>) -> Result<(), String> {
        let mut at = 0;
        let mut broken = false;
        for added in added {
            let sequence = &mut self.queue.running()[at];
            let progress = sequence.advance(*added, self.model, &self.context);
            self.queue.settle_guesses(&mut self.context, at);
            let sequence = &mut self.queue.running()[at];
            match progress {
                Ok(Progress::Going) => {
                    if sequence.stream {
                        reports.piece(sequence.id, sequence.piece())?;
                    }
                    at += 1;
                }
                Ok(Progress::Done(reason)) => {
                    let sequence = self.queue.retire(at);
                    complete(sequence, reason, reports)?;
                }
                Ok(Progress::Broken) if sequence.suspect => {
                    let sequence = self.queue.discard(&mut self.context, at);
                    reports.answer(sequence.id, Err(not_finite()))?;
                    broken = true;
                }
                Ok(Progress::Broken) => {
                    at += 1;
                    broken = true;
                }
                Err(failure) => {
                    let sequence = self.queue.discard(&mut self.context, at);
                    reports.answer(sequence.id, Err(failure))?;
                }
            }
        }
        if broken {
            self.queue.start_over(&mut self.context);
        }
        Ok(())
    }

    /// Fails all requests under way; those that wait have nothing to do with it.
    fn fail_all(&mut self, failure: &Failure, reports: &mut Reports<'_>) -> Result<(), String> {
        while !self.queue.running().is_empty() {
            let sequence = self.queue.discard(&mut self.context, 0);
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
    let (rest, done) = sequence.finish(reason);
    if sequence.stream {
        reports.piece(sequence.id, rest)?;
    }
    let done = Answer::Generated(Box::new(done));
    reports.answer(sequence.id, Ok(done))
}
