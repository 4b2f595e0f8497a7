//! How fast the model works on this machine: how much of a prompt is evaluated at a time, and how
//! long a step is going to take.

use std::time::Duration;

/// How long a prompt chunk may take. A client that leaves is noticed between two chunks; one that
/// takes longer than loading the model again is not waited for by the next client.
const CHUNK_TIME: Duration = Duration::from_secs(1);

/// Tokens of a prompt chunk at the least: from so many on llama.cpp computes flash attention in
/// tiles, up to twice as fast (`GGML_FA_TILE_Q`), and each chunk reads all weights, however small
/// it is. Half the tokens in half the time is not to be had below.
const TILE: usize = 64;

/// Tokens of a prompt chunk at the most, if the batch has so many. More at a time are no faster.
const LARGEST: usize = 512;

/// Operations a second that a processor core is taken to do before there is a measurement.
const ASSUMED_SPEED: f64 = 40e9;

/// What the steps so far have shown of the model's speed.
pub(crate) struct StepEstimator {
    /// Prompt tokens evaluated at a time.
    chunk: usize,
    smallest: usize,
    largest: usize,
    /// Seconds a token, as long as nothing is measured.
    assumed: f64,
    /// The part of the threads that the next step gets. What is kept here is as if it were 1.
    part: f64,
    /// The last step of each size: of 1 token, up to 3, up to 7 and so on.
    steps: Vec<Option<Step>>,
}

/// A step that was measured.
#[derive(Clone, Copy)]
struct Step {
    tokens: usize,
    took: Duration,
}

impl StepEstimator {
    /// For a model of so many parameters on so many threads; `on_gpu` is worth no guess, and
    /// starts with whole batches.
    pub(crate) fn new(parameters: u64, threads: u32, on_gpu: bool, batch_size: usize) -> Self {
        // A token takes two operations for each parameter.
        let operations = 2.0 * parameters.max(1) as f64;
        let assumed = operations / (ASSUMED_SPEED * f64::from(threads));
        let largest = if on_gpu {
            batch_size
        } else {
            LARGEST.min(batch_size)
        };
        let smallest = TILE.min(largest);
        let chunk = match on_gpu {
            true => largest,
            false => first_chunk(assumed).clamp(smallest, largest),
        };
        Self {
            chunk,
            smallest,
            largest,
            assumed,
            part: 1.0,
            steps: vec![None; batch_size.max(1).ilog2() as usize + 1],
        }
    }

    /// Says which part of the threads the next step gets.
    pub(crate) fn on(&mut self, part: f64) {
        self.part = part;
    }

    /// Prompt tokens to evaluate in the next step, at the most.
    pub(crate) fn chunk(&self) -> usize {
        let mut chunk = self.chunk;
        while self.part < 1.0 && chunk > self.smallest && self.expected(chunk) > 2 * CHUNK_TIME {
            chunk /= 2;
        }
        chunk
    }

    /// How long a step of so many tokens is going to take, by the last one of about that size,
    /// else by the nearest: of a smaller one in proportion.
    pub(crate) fn expected(&self, tokens: usize) -> Duration {
        let class = self.class(tokens);
        let (smaller, larger) = self.steps.split_at(class + 1);
        let mut nearest = smaller.iter().rev().chain(larger).flatten();
        match nearest.next() {
            Some(step) => {
                let times = tokens as f64 / step.tokens as f64;
                step.took.mul_f64(times.max(1.0) / self.part)
            }
            None => {
                let seconds = self.assumed * tokens as f64 / self.part;
                Duration::from_secs_f64(seconds.min(3600.0))
            }
        }
    }

    /// Learns from a step of so many tokens, `prompt` of which were of prompts.
    pub(crate) fn learn(&mut self, tokens: usize, prompt: usize, took: Duration) {
        if tokens == 0 {
            return;
        }
        let took = took.mul_f64(self.part);
        let class = self.class(tokens);
        self.steps[class] = Some(Step { tokens, took });
        if prompt >= self.chunk {
            self.fit_chunk(took);
        }
    }

    /// Fits the chunk to the time that a whole one took. Twice as much may take a little more than
    /// it should, and behind a long context twice as long: few tokens at a time are slower each.
    fn fit_chunk(&mut self, took: Duration) {
        if took > CHUNK_TIME * 2 {
            self.chunk = (self.chunk / 2).max(self.smallest);
        } else if took < CHUNK_TIME * 3 / 5 {
            self.chunk = (self.chunk * 2).min(self.largest);
        }
    }

    fn class(&self, tokens: usize) -> usize {
        (tokens.max(1).ilog2() as usize).min(self.steps.len() - 1)
    }
}

/// The chunk to start with, a token taking so many seconds.
fn first_chunk(token: f64) -> usize {
    let tokens = CHUNK_TIME.as_secs_f64() / token;
    let tokens = tokens.clamp(1.0, LARGEST as f64) as usize;
    // Powers of two keep the chunks, and so the rounding of the results, the same from run to run.
    1 << tokens.ilog2()
}
