//! How fast the model is on this machine: how much of a prompt is evaluated at a time, and how long a
//! step is going to take.

use std::time::Duration;

/// How long a prompt chunk may take: a client that leaves is noticed between two chunks.
const CHUNK_TIME: Duration = Duration::from_secs(1);

/// The fewest tokens of a prompt chunk: from here on, llama.cpp computes flash attention in tiles, up
/// to twice as fast (`GGML_FA_TILE_Q`), and each chunk reads all weights, however small it is. Below,
/// half the tokens take more than half the time.
const MIN_CHUNK: usize = 64;

/// The most tokens of a prompt chunk: more at a time are no faster.
const MAX_CHUNK: usize = 512;

/// Operations per second of a processor core, until there is a measurement.
const ASSUMED_SPEED: f64 = 40e9;

/// What the steps so far have shown of the model's speed.
pub struct StepEstimator {
    /// Prompt tokens evaluated at a time.
    chunk: usize,
    min_chunk: usize,
    max_chunk: usize,
    /// Seconds per token, until there is a measurement.
    assumed: f64,
    /// The part of the threads that the next step gets. Times are kept as if it were 1.
    thread_part: f64,
    /// The last step of each size: of 1 token, up to 3, up to 7 and so on.
    steps: Vec<Option<Step>>,
}

/// A step that was measured.
#[derive(Clone, Copy)]
struct Step {
    n_tokens: usize,
    took: Duration,
}

impl StepEstimator {
    /// For a model with this many parameters on this many threads. On a GPU nothing is assumed, and the
    /// first chunk is a whole batch.
    pub fn new(parameters: u64, threads: u32, on_gpu: bool, batch_size: usize) -> Self {
        // A token takes two operations for each parameter.
        let operations = 2.0 * parameters.max(1) as f64;
        let assumed = operations / (ASSUMED_SPEED * f64::from(threads));
        let max_chunk = if on_gpu {
            batch_size
        } else {
            MAX_CHUNK.min(batch_size)
        };
        let min_chunk = MIN_CHUNK.min(max_chunk);
        let chunk = match on_gpu {
            true => max_chunk,
            false => first_chunk(assumed).clamp(min_chunk, max_chunk),
        };
        Self {
            chunk,
            min_chunk,
            max_chunk,
            assumed,
            thread_part: 1.0,
            steps: vec![None; batch_size.max(1).ilog2() as usize + 1],
        }
    }

    /// Sets the part of the threads that the next step gets.
    pub fn set_thread_part(&mut self, part: f64) {
        self.thread_part = part;
    }

    /// The most prompt tokens to evaluate in the next step.
    pub fn chunk(&self) -> usize {
        let mut chunk = self.chunk;
        while self.thread_part < 1.0
            && chunk > self.min_chunk
            && self.expected(chunk) > 2 * CHUNK_TIME
        {
            chunk /= 2;
        }
        chunk
    }

    /// How long a step of `n_tokens` is going to take, by the last one of about that size, else of the
    /// nearest size: if that is smaller, in proportion.
    pub fn expected(&self, n_tokens: usize) -> Duration {
        let class = self.size_class(n_tokens);
        let (smaller, larger) = self.steps.split_at(class + 1);
        let mut nearest = smaller.iter().rev().chain(larger).flatten();
        match nearest.next() {
            Some(step) => {
                let times = n_tokens as f64 / step.n_tokens as f64;
                step.took.mul_f64(times.max(1.0) / self.thread_part)
            }
            None => {
                let seconds = self.assumed * n_tokens as f64 / self.thread_part;
                Duration::from_secs_f64(seconds.min(3600.0))
            }
        }
    }

    /// Learns from a step of `n_tokens`, `n_prompt` of which were of prompts.
    pub fn learn(&mut self, n_tokens: usize, n_prompt: usize, took: Duration) {
        if n_tokens == 0 {
            return;
        }
        let took = took.mul_f64(self.thread_part);
        let class = self.size_class(n_tokens);
        self.steps[class] = Some(Step { n_tokens, took });
        if n_prompt >= self.chunk {
            self.fit_chunk(took);
        }
    }

    /// Adapts the chunk to the time that a whole one took. Twice as many tokens may take a little more
    /// than they should, and after a long context twice as long: fewer at a time are slower each.
    fn fit_chunk(&mut self, took: Duration) {
        if took > CHUNK_TIME * 2 {
            self.chunk = (self.chunk / 2).max(self.min_chunk);
        } else if took < CHUNK_TIME * 3 / 5 {
            self.chunk = (self.chunk * 2).min(self.max_chunk);
        }
    }

    fn size_class(&self, n_tokens: usize) -> usize {
        (n_tokens.max(1).ilog2() as usize).min(self.steps.len() - 1)
    }
}

/// The first chunk, by the assumed seconds per token.
fn first_chunk(per_token: f64) -> usize {
    let tokens = CHUNK_TIME.as_secs_f64() / per_token;
    let tokens = tokens.clamp(1.0, MAX_CHUNK as f64) as usize;
    // A power of two keeps the chunks, and so the rounding of the results, the same in each run.
    1 << tokens.ilog2()
}
