//! Properties of all tokens of the vocabulary, determined once, when they are first needed.

use std::cell::OnceCell;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use crate::text;

/// Bytes that are characters on their own.
const ASCII: usize = 128;

/// The tokens of a model, by their properties.
#[derive(Default)]
pub struct TokenIndex {
    textless: OnceCell<Vec<LlamaToken>>,
    eog: OnceCell<Vec<LlamaToken>>,
    initials: OnceCell<Initials>,
}

/// The tokens that can be part of a text or end it, by the character that they begin with.
pub(super) struct Initials {
    /// One for each character: where it cannot be next, none of its tokens can.
    pub(super) groups: Vec<Group>,
    /// Those of no group, in the order of the vocabulary: most begin with a character, or a part
    /// of one, that is not ASCII.
    pub(super) others: Vec<LlamaToken>,
}

/// The tokens that begin with the same character.
#[derive(Clone, Default)]
pub(super) struct Group {
    /// The one that is this character and nothing more.
    pub(super) alone: Option<LlamaToken>,
    /// All of them, in the order of the vocabulary.
    pub(super) tokens: Vec<LlamaToken>,
}

impl TokenIndex {
    /// The tokens that have no text and do not end an answer either.
    pub(super) fn textless(&self, model: &LlamaModel) -> &[LlamaToken] {
        let textless = |token: &LlamaToken| text::is_textless(model, *token);
        let list = || model.vocab().tokens().filter(textless).collect();
        self.textless.get_or_init(list)
    }

    /// The tokens that end an answer (end of generation).
    pub(super) fn eog(&self, model: &LlamaModel) -> &[LlamaToken] {
        let vocabulary = model.vocab();
        let eog = |token: &LlamaToken| vocabulary.is_eog(*token);
        let list = || vocabulary.tokens().filter(eog).collect();
        self.eog.get_or_init(list)
    }

    /// The tokens by the character that they begin with.
    pub(super) fn initials(&self, model: &LlamaModel) -> &Initials {
        self.initials.get_or_init(|| self.sort(model))
    }

    fn sort(&self, model: &LlamaModel) -> Initials {
        let vocabulary = model.vocab();
        let textless = self.textless(model);
        let mut groups = vec![Group::default(); ASCII];
        let mut others = Vec::new();
        for token in vocabulary.tokens() {
            if textless.binary_search(&token).is_ok() {
                continue;
            }
            let text = vocabulary.token_to_piece(token, false, None);
            let initial = text.first().map(|byte| usize::from(*byte));
            let group = initial.and_then(|initial| groups.get_mut(initial));
            let Some(group) = group.filter(|_| !vocabulary.is_eog(token)) else {
                others.push(token);
                continue;
            };
            if text.len() == 1 {
                group.alone = Some(token);
            }
            group.tokens.push(token);
        }
        let (groups, without): (Vec<Group>, Vec<Group>) =
            groups.into_iter().partition(|group| group.alone.is_some());
        others.extend(without.into_iter().flat_map(|group| group.tokens));
        others.sort_unstable();
        Initials { groups, others }
    }
}
