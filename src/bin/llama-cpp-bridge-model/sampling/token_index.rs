//! What is asked of every token of the vocabulary again and again, found out once, when it is
//! needed for the first time.

use std::cell::OnceCell;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use crate::text::tokenizer;

/// Bytes that are characters by themselves.
const ASCII: usize = 128;

/// The vocabulary of a model, sorted.
#[derive(Default)]
pub(crate) struct TokenIndex {
    silent: OnceCell<Vec<LlamaToken>>,
    ends: OnceCell<Vec<LlamaToken>>,
    initials: OnceCell<Initials>,
}

/// The tokens that can be part of a text or end it, by the character that they begin with.
pub(crate) struct Initials {
    /// Each of one character: where it cannot be next, none of its tokens can.
    pub(crate) groups: Vec<Group>,
    /// Those of no group, in the order of the vocabulary: most begin with a character, or a part
    /// of one, that is no ASCII.
    pub(crate) others: Vec<LlamaToken>,
}

/// The tokens that begin with the same character.
#[derive(Clone, Default)]
pub(crate) struct Group {
    /// The one that is this character and nothing more.
    pub(crate) alone: Option<LlamaToken>,
    /// All of them, in the order of the vocabulary.
    pub(crate) tokens: Vec<LlamaToken>,
}

impl TokenIndex {
    /// The tokens that give no text and do not end an answer either.
    pub(crate) fn silent(&self, model: &LlamaModel) -> &[LlamaToken] {
        let silent = |token: &LlamaToken| tokenizer::is_silent(model, *token);
        let list = || model.vocab().tokens().filter(silent).collect();
        self.silent.get_or_init(list)
    }

    /// The tokens that end an answer.
    pub(crate) fn ends(&self, model: &LlamaModel) -> &[LlamaToken] {
        let vocabulary = model.vocab();
        let ends = |token: &LlamaToken| vocabulary.is_eog(*token);
        let list = || vocabulary.tokens().filter(ends).collect();
        self.ends.get_or_init(list)
    }

    /// The tokens by the character that they begin with.
    pub(crate) fn initials(&self, model: &LlamaModel) -> &Initials {
        self.initials.get_or_init(|| self.sort(model))
    }

    fn sort(&self, model: &LlamaModel) -> Initials {
        let vocabulary = model.vocab();
        let silent = self.silent(model);
        let mut groups = vec![Group::default(); ASCII];
        let mut others = Vec::new();
        for token in vocabulary.tokens() {
            if silent.binary_search(&token).is_ok() {
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
