//! The most likely tokens, found in one pass over the logits: most samplers drop all others anyway,
//! and passing the whole vocabulary to them takes longer than everything else for a token.

use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;

use llama_cpp_bridge::shared::failure::{Code, Failure};

/// Logits in a block, of which the highest is noted. The smaller the blocks, the fewer tokens come
/// with those that are wanted, and the longer is the list of blocks.
const BLOCK: usize = 64;

/// Logits that are compared at a time.
const LANES: usize = 16;

/// All tokens of the vocabulary.
pub(super) const ALL: usize = usize::MAX;

/// The logits of all tokens, for one row of a batch.
pub struct Logits<'context> {
    all: &'context [f32],
    /// The highest of each block.
    block_max: Vec<f32>,
}

impl<'context> Logits<'context> {
    /// Scans logits. `None` if no token can be chosen by them, since NaN or positive infinity is
    /// among them, or nothing but negative infinity: llama.cpp would give an empty answer.
    pub fn new(all: &'context [f32]) -> Option<Self> {
        let mut finite = true;
        let mut block_max = Vec::with_capacity(all.len().div_ceil(BLOCK));
        for block in all.chunks(BLOCK) {
            let (max, below_infinity) = scan(block);
            block_max.push(max);
            finite &= below_infinity;
        }
        let any = block_max.iter().any(|max| *max > f32::NEG_INFINITY);
        (finite && any).then_some(Self { all, block_max })
    }

    /// Lists at least the `count` most likely tokens, in the order of the vocabulary. Every token
    /// that is not listed is less likely than all that are.
    pub(super) fn top_candidates(&self, count: usize, list: &mut Vec<LlamaTokenData>) {
        list.clear();
        let threshold = self.threshold(count);
        let blocks = self.all.chunks(BLOCK).zip(&self.block_max);
        for (number, (block, _)) in blocks
            .enumerate()
            .filter(|(_, (_, max))| **max >= threshold)
        {
            for (index, logit) in block
                .iter()
                .enumerate()
                .filter(|(_, logit)| **logit >= threshold)
            {
                let token = LlamaToken::new((number * BLOCK + index) as i32);
                list.push(LlamaTokenData::new(token, *logit, 0.0));
            }
        }
    }

    /// Lists these tokens.
    pub(super) fn of<'t>(
        &self,
        tokens: impl Iterator<Item = &'t LlamaToken>,
        list: &mut Vec<LlamaTokenData>,
    ) {
        let with_logit = |token: &LlamaToken| {
            let logit = self.all[token.0 as usize];
            LlamaTokenData::new(*token, logit, 0.0)
        };
        list.clear();
        list.extend(tokens.map(with_logit));
    }

    /// A logit that at least `count` tokens reach, since as many blocks have one that does.
    fn threshold(&self, count: usize) -> f32 {
        if count == 0 || count > self.block_max.len() {
            return f32::NEG_INFINITY;
        }
        let mut block_max = self.block_max.clone();
        let (_, threshold, _) = block_max.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
        *threshold
    }
}

/// Checks that these are numbers of which one can be chosen.
///
/// # Errors
/// NaN or positive infinity among them, or nothing but negative infinity.
pub fn check_logits(logits: &[f32]) -> Result<(), Failure> {
    Logits::new(logits).map(|_| ()).ok_or_else(not_finite)
}

/// The failure of a request whose logits are not finite.
pub fn not_finite() -> Failure {
    let message = "The model computed values that are not finite numbers";
    Failure::new(Code::Internal, message)
}

/// Whether two of these tokens are equally likely.
pub(super) fn tied(list: &[LlamaTokenData]) -> bool {
    let mut logits: Vec<f32> = list.iter().map(LlamaTokenData::logit).collect();
    logits.sort_unstable_by(f32::total_cmp);
    logits.windows(2).any(|pair| pair[0] == pair[1])
}

/// The highest of some logits, and whether all are below infinity. The lanes do not depend on each
/// other, so that the compiler can vectorize the loop.
fn scan(block: &[f32]) -> (f32, bool) {
    let mut highest = [f32::NEG_INFINITY; LANES];
    let mut wrong = [0u32; LANES];
    let (whole, rest) = block.as_chunks::<LANES>();
    for logits in whole {
        for lane in 0..LANES {
            let logit = logits[lane];
            highest[lane] = if logit > highest[lane] {
                logit
            } else {
                highest[lane]
            };
            wrong[lane] |= u32::from(!below_infinity(logit));
        }
    }
    for (lane, logit) in rest.iter().enumerate() {
        highest[lane] = highest[lane].max(*logit);
        wrong[lane] |= u32::from(!below_infinity(*logit));
    }
    let max = highest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    (max, wrong == [0; LANES])
}

/// False for infinity and for NaN.
fn below_infinity(logit: f32) -> bool {
    logit < f32::INFINITY
}
