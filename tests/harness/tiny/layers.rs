//! The layers of a tiny model, which add nothing unless it is to remember a byte.

use super::{Architecture, EMBEDDING, FEED_FORWARD, HEAD, SEEN, Tiny, VOCABULARY, token_of};
use crate::harness::gguf::{Gguf, Kind, Tensor};

/// Width of Mamba's convolution over the last tokens.
pub(super) const CONVOLUTION: u64 = 4;
/// Channels of Mamba's state: llama.cpp takes twice the embedding only.
pub(super) const INNER: u64 = 2 * EMBEDDING;
/// Values of a channel's state.
pub(super) const STATE: u64 = 16;
/// Rank of Mamba's time step.
pub(super) const RANK: u64 = 32;

impl Tiny {
    /// A layer that adds nothing, but for the first one, which may remember a byte.
    pub(super) fn add_attention_layer(&self, file: &mut Gguf, layer: u32) {
        let width = HEAD * self.heads;
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let norm = Tensor::filled(name("attn_norm"), EMBEDDING, 1.0);
        file.add(norm);
        file.add(Tensor::filled(name("ffn_norm"), EMBEDDING, 1.0));
        if self.architecture == Architecture::SlidingWindow {
            file.add(Tensor::filled(name("post_attention_norm"), EMBEDDING, 1.0));
            file.add(Tensor::filled(name("post_ffw_norm"), EMBEDDING, 1.0));
            file.add(Tensor::filled(name("attn_q_norm"), HEAD, 1.0));
            file.add(Tensor::filled(name("attn_k_norm"), HEAD, 1.0));
        }
        file.add(Tensor::zeros(
            name("attn_q"),
            &[EMBEDDING, width],
            Kind::Q5_0,
        ));
        file.add(Tensor::zeros(name("attn_k"), &[EMBEDDING, HEAD], Kind::F32));
        let mut values = Tensor::zeros(name("attn_v"), &[EMBEDDING, HEAD], Kind::F32);
        let mut back = Tensor::zeros(name("attn_output"), &[width, EMBEDDING], Kind::Q5_0);
        if let (0, Some((byte, _))) = (layer, self.remembered) {
            // Queries and keys are zero, so that a position sees the mean of all before it.
            values.set(0, token_of(byte), 10.0);
            back = back.with_kind(Kind::F32);
            back.set(SEEN, 0, 1.0);
        }
        file.add(values);
        file.add(back);
        for part in ["ffn_gate", "ffn_up"] {
            file.add(Tensor::zeros(
                name(part),
                &[EMBEDDING, FEED_FORWARD],
                Kind::F32,
            ));
        }
        file.add(Tensor::zeros(
            name("ffn_down"),
            &[FEED_FORWARD, EMBEDDING],
            Kind::F32,
        ));
    }

    /// A Mamba layer: channel 0 of its state sums up the remembered byte, channel 1 is always on
    /// and writes and reads that state.
    pub(super) fn add_recurrent_layer(&self, file: &mut Gguf, layer: u32) {
        let name = |part: &str| format!("blk.{layer}.{part}");
        file.add(Tensor::filled(name("attn_norm.weight"), EMBEDDING, 1.0));
        let mut input = Tensor::zeros(name("ssm_in.weight"), &[EMBEDDING, 2 * INNER], Kind::F32);
        let mut output = Tensor::zeros(name("ssm_out.weight"), &[INNER, EMBEDDING], Kind::F32);
        if let Some((byte, _)) = self.remembered {
            input.set(0, token_of(byte), 1.0);
            for token in 0..VOCABULARY {
                input.set(1, token, 1.0);
                input.set(INNER, token, 1.0);
            }
            output.set(SEEN, 0, 1.0);
        }
        file.add(input);
        let mut convolution =
            Tensor::zeros(name("ssm_conv1d.weight"), &[CONVOLUTION, INNER], Kind::F32);
        for channel in 0..2 {
            convolution.set(channel, CONVOLUTION - 1, 1.0);
        }
        file.add(convolution);
        file.add(Tensor::zeros(name("ssm_conv1d.bias"), &[INNER], Kind::F32));
        let mut selection =
            Tensor::zeros(name("ssm_x.weight"), &[INNER, RANK + 2 * STATE], Kind::F32);
        selection.set(RANK, 1, 1.0);
        selection.set(RANK + STATE, 1, 1.0);
        file.add(selection);
        file.add(Tensor::zeros(
            name("ssm_dt.weight"),
            &[RANK, INNER],
            Kind::F32,
        ));
        file.add(Tensor::filled(name("ssm_dt.bias"), INNER, 1.0));
        // A decay of next to nothing: the state lasts as long as the text.
        let mut decay = Tensor::zeros(name("ssm_a"), &[STATE, INNER], Kind::F32);
        for channel in 0..INNER {
            for state in 0..STATE {
                decay.set(channel, state, -1e-6);
            }
        }
        file.add(decay);
        file.add(Tensor::zeros(name("ssm_d"), &[INNER], Kind::F32));
        file.add(output);
    }
}
