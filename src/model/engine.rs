//! The loop of the model process: takes requests in, evaluates what all of them need in one
//! batch, lets each sample its next token, and answers those that are done.

use std::time::{Duration, Instant};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;

use super::chat::Template;
use super::embedding::{self, Embedder};
use super::sequence::{Progress, Sequence, check_logits};
use super::{next_message, vocabulary};
use crate::failure::{Code, Failure};
use crate::link::{Link, Received};
use crate::message::{Answer, FinishReason, FromModel, Generate, ToModel, Work};
use crate::settings::Load;

/// How many requests are worked on at a time. The bridge sends one.
const PLACES: usize = 1;

/// How long a prompt chunk may take. A client that leaves is noticed between two chunks.
const CHUNK_TIME: Duration = Duration::from_millis(250);

/// From this many tokens on llama.cpp computes flash attention in tiles, up to twice as fast
/// (`GGML_FA_TILE_Q`); so a chunk is made smaller only when it takes longer than
/// [`TILE_TIME`].
const TILE: usize = 64;

/// How long a chunk of a tile may take.
const TILE_TIME: Duration = Duration::from_millis(400);

/// Chunks after one that took too long, before a larger one is tried that may do so again.
const PATIENCE: usize = 64;

/// Operations a second that a processor core is taken to do before there is a measurement.
const ASSUMED_SPEED: f64 = 40e9;

/// A model at work.
pub(super) struct Engine<'model> {
    model: &'model LlamaModel,
    context: LlamaContext<'model>,
    context_size: u32,
    batch: LlamaBatch<'static>,
    /// Prompt tokens evaluated at a time.
    chunk: usize,
    /// Chunks until a larger one may be tried.
    patience: usize,
    batch_size: usize,
    template: Option<Template>,
    embedder: Embedder<'model>,
    only_embeds: bool,
    sequences: Vec<Sequence>,
    /// For each place, the tokens that its sequence of the context holds.
    cached: Vec<Vec<LlamaToken>>,
}

impl<'model> Engine<'model> {
    /// Puts a model to work.
    pub(super) fn new(
        backend: &'model LlamaBackend,
        model: &'model LlamaModel,
        context: LlamaContext<'model>,
        load: &'model Load,
        context_size: u32,
        template: Option<Template>,
    ) -> Self {
        let batch_size = context.n_batch() as usize;
        let on_gpu = backend.supports_gpu_offload() && load.gpu_layers != Some(0);
        let chunk = if on_gpu {
            batch_size
        } else {
            first_chunk(model.n_params(), load.threads_batch).min(batch_size)
        };
        Self {
            model,
            context,
            context_size,
            batch: LlamaBatch::new(batch_size, 1),
            chunk,
            patience: 0,
            batch_size,
            template,
            embedder: Embedder::new(backend, model, load, context_size),
            only_embeds: embedding::only_embeds(model),
            sequences: Vec::new(),
            cached: vec![Vec::new(); PLACES],
        }
    }

    /// Evaluates and samples one token: most files that kill llama.cpp do so here, before anyone
    /// relies on the model.
    ///
    /// # Errors
    /// A model that cannot do it.
    pub(super) fn try_out(&mut self) -> Result<(), String> {
        if self.only_embeds {
            let tried = self.embedder.embed("a");
            return tried.map(drop).map_err(|failure| failure.message);
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
        self.context.clear_kv_cache();
        Ok(())
    }

    /// Works on requests until the bridge is gone.
    ///
    /// # Errors
    /// Those of the socket.
    pub(super) fn serve(&mut self, link: &mut Link) -> Result<(), String> {
        loop {
            let idle = self.sequences.is_empty();
            let message = match next_message(link, idle)? {
                Received::Message(message) => Some(message),
                Received::Nothing => None,
                Received::End => return Ok(()),
            };
            match message {
                None => self.step(link)?,
                Some(ToModel::Cancel(id)) => self.cancel(id, link)?,
                Some(ToModel::Work(id, Work::Generate(request))) => {
                    self.admit(id, &request, link)?;
                }
                Some(ToModel::Work(id, work)) => {
                    let outcome = self.answer_at_once(work);
                    answer(link, id, outcome)?;
                }
                // One process holds one model.
                Some(ToModel::Load(_)) => (),
            }
        }
    }

    /// Answers what needs no sequence.
    fn answer_at_once(&mut self, work: Work) -> Result<Answer, Failure> {
        Ok(match work {
            Work::Embed(text) => Answer::Embedding(self.embedder.embed(&text)?),
            Work::Tokenize(text) => Answer::Tokens(vocabulary::tokenize(self.model, &text)),
            Work::Detokenize(ids) => Answer::Text(vocabulary::detokenize(self.model, &ids)?),
            Work::Generate(_) => {
                return Err(Failure::new(Code::Internal, "A text is not made at once"));
            }
        })
    }

    fn admit(&mut self, id: u64, request: &Generate, link: &mut Link) -> Result<(), String> {
        match self.start(id, request) {
            Ok(sequence) => {
                self.sequences.push(sequence);
                Ok(())
            }
            Err(failure) => answer(link, id, Err(failure)),
        }
    }

    fn start(&mut self, id: u64, request: &Generate) -> Result<Sequence, Failure> {
        if self.only_embeds {
            let message = "The model can only embed; EMBED is the command for it";
            return Err(Failure::new(Code::Unsupported, message));
        }
        let taken = |place: &usize| self.sequences.iter().any(|s| s.place as usize == *place);
        let free = (0..PLACES).find(|place| !taken(place));
        let place = free.ok_or_else(|| Failure::new(Code::Internal, "All places are taken"))?;
        let place = place as i32;
        let tokens = self.tokens(request)?;
        let size = self.context_size;
        let mut sequence = Sequence::new(id, place, self.model, size, tokens, request)?;
        if !request.cache_prompt {
            self.forget(place);
        }
        let known = self.reuse(&sequence);
        sequence.skip(known);
        Ok(sequence)
    }

    /// The tokens of a prompt, or of a conversation up to the model's turn.
    fn tokens(&self, request: &Generate) -> Result<Vec<LlamaToken>, Failure> {
        let Some(turns) = &request.messages else {
            let prompt = request.prompt.as_deref().unwrap_or_default();
            return Ok(vocabulary::prompt(self.model, prompt));
        };
        let template = self.template.as_ref().ok_or_else(|| {
            let message = "The model has no chat template; --chat-template-file gives it one";
            Failure::new(Code::Unsupported, message)
        })?;
        Ok(vocabulary::rendered(self.model, &template.render(turns)?))
    }

    /// Cuts the cache of a place back to what it has in common with a prompt; returns how many
    /// tokens that are. The last one of the prompt is always evaluated: its logits are needed.
    fn reuse(&mut self, sequence: &Sequence) -> usize {
        let place = sequence.place;
        let prompt = sequence.prompt();
        let cached = &mut self.cached[place as usize];
        let same = cached
            .iter()
            .zip(prompt)
            .take_while(|(a, b)| a == b)
            .count();
        let common = same.min(prompt.len() - 1);
        if common == cached.len() {
            return common;
        }
        // A window that has slid no longer holds what would follow a cut further back.
        let whole = self.context.kv_cache_seq_pos_min(place) <= 0;
        let cut = whole
            && self
                .context
                .clear_kv_cache_seq(Some(place as u32), Some(common as u32), None)
                .is_ok_and(|cut| cut);
        if cut {
            cached.truncate(common);
            return common;
        }
        self.forget(place);
        0
    }

    /// Empties the cache of a place.
    fn forget(&mut self, place: i32) {
        self.cached[place as usize].clear();
        // Removing a whole sequence always succeeds.
        let _ = self
            .context
            .clear_kv_cache_seq(Some(place as u32), None, None);
    }

    fn cancel(&mut self, id: u64, link: &mut Link) -> Result<(), String> {
        let Some(at) = self.sequences.iter().position(|s| s.id == id) else {
            return Ok(());
        };
        self.retire(at);
        answer(link, id, Err(Failure::new(Code::Internal, "Cancelled")))
    }

    /// Takes a sequence out; what it evaluated stays cached for the next prompt.
    fn retire(&mut self, at: usize) -> Sequence {
        let sequence = self.sequences.remove(at);
        self.cached[sequence.place as usize] = sequence.evaluated().to_vec();
        sequence
    }

    /// Evaluates one batch: of each sequence its sampled token or a chunk of its prompt.
    fn step(&mut self, link: &mut Link) -> Result<(), String> {
        self.batch.clear();
        let mut added = Vec::new();
        for sequence in &mut self.sequences {
            let room = self
                .chunk
                .min(self.batch_size - self.batch.n_tokens() as usize);
            added.push(sequence.fill(&mut self.batch, room));
        }
        let start = Instant::now();
        if let Err(error) = self.context.decode(&mut self.batch) {
            let message = format!("llama.cpp cannot evaluate the batch: {error}");
            return self.fail_all(&Failure::new(Code::Internal, message), link);
        }
        self.context.synchronize();
        self.adapt_chunk(self.batch.n_tokens() as usize, start.elapsed());
        // From the last, so that those taken out do not move those still to come.
        for at in (0..added.len()).rev() {
            let outcome = self.sequences[at].advance(added[at], self.model, &self.context);
            match outcome {
                Ok(Progress::Going) => self.give_piece(at, link)?,
                Ok(Progress::Done(reason)) => self.complete(at, reason, link)?,
                Err(failure) => {
                    let sequence = self.retire(at);
                    self.forget(sequence.place);
                    answer(link, sequence.id, Err(failure))?;
                }
            }
        }
        Ok(())
    }

    fn give_piece(&mut self, at: usize, link: &mut Link) -> Result<(), String> {
        let sequence = &mut self.sequences[at];
        if !sequence.stream {
            return Ok(());
        }
        let piece = sequence.piece();
        send_piece(link, sequence.id, piece)
    }

    fn complete(&mut self, at: usize, reason: FinishReason, link: &mut Link) -> Result<(), String> {
        let mut sequence = self.retire(at);
        let (rest, done) = sequence.finish(reason);
        if sequence.stream {
            send_piece(link, sequence.id, rest)?;
        }
        let done = Answer::Generated(Box::new(done));
        answer(link, sequence.id, Ok(done))
    }

    fn fail_all(&mut self, failure: &Failure, link: &mut Link) -> Result<(), String> {
        while let Some(sequence) = self.sequences.pop() {
            self.forget(sequence.place);
            answer(link, sequence.id, Err(failure.clone()))?;
        }
        Ok(())
    }

    /// Fits the chunk to the time that a whole one took.
    fn adapt_chunk(&mut self, tokens: usize, took: Duration) {
        if tokens < self.chunk {
            return;
        }
        let small = self.chunk < TILE;
        let limit = if self.chunk > TILE {
            CHUNK_TIME
        } else {
            TILE_TIME
        };
        self.patience = self.patience.saturating_sub(1);
        if took > limit {
            self.chunk = (self.chunk / 2).max(1);
            self.patience = PATIENCE;
        } else if took < CHUNK_TIME / 2 || (small && self.patience == 0) {
            self.chunk = (self.chunk * 2).min(self.batch_size);
        }
    }
}

/// The chunk to start with: a token takes two operations for each parameter.
fn first_chunk(parameters: u64, threads: u32) -> usize {
    let operations = ASSUMED_SPEED * f64::from(threads) * CHUNK_TIME.as_secs_f64();
    let tokens = operations / (2.0 * parameters.max(1) as f64);
    let tokens = tokens.clamp(1.0, 512.0) as usize;
    // Powers of two keep the chunks, and so the rounding of the results, the same from run to run.
    1 << tokens.ilog2()
}

fn send_piece(link: &mut Link, id: u64, piece: String) -> Result<(), String> {
    if piece.is_empty() {
        return Ok(());
    }
    send(link, FromModel::Piece(id, piece))
}

fn answer(link: &mut Link, id: u64, outcome: Result<Answer, Failure>) -> Result<(), String> {
    send(link, FromModel::Answer(id, outcome))
}

fn send(link: &mut Link, message: FromModel) -> Result<(), String> {
    link.send(message)
        .map_err(|error| format!("the bridge is gone: {error}"))
}
