//! How messages are written: as JSON, for which miniserde wants structs where the code has enums.

use miniserde::{Deserialize, Serialize};

use crate::shared::build::Build;
use crate::shared::failure::{Code, Failure};
use crate::shared::message::{
    Answer, Done, Embedding, FromModel, Generate, Ready, State, ToModel, Work,
};
use crate::shared::settings::ModelParams;

/// What can be sent over the socket pair.
pub trait Message: Sized {
    /// The form in which it is written.
    type Written: Serialize + Deserialize;

    /// Puts it into that form.
    fn write(self) -> Self::Written;

    /// Takes it out of that form; `None` if no part is there.
    fn read(written: Self::Written) -> Option<Self>;
}

/// [`ToModel`] as it is written. Exactly one part is there.
#[derive(Serialize, Deserialize, Default)]
pub struct WrittenToModel {
    id: u64,
    // Another name than the model's: a program that sends back what it gets is none.
    bridge: Option<Build>,
    load: Option<ModelParams>,
    generate: Option<Generate>,
    embed: Option<String>,
    tokenize: Option<String>,
    detokenize: Option<Vec<i32>>,
    save: Option<String>,
    restore: Option<String>,
    cancel: Option<bool>,
}

/// [`FromModel`] as it is written. Exactly one part is there.
#[derive(Serialize, Deserialize, Default)]
pub struct WrittenFromModel {
    id: u64,
    hello: Option<Build>,
    ready: Option<Ready>,
    refused: Option<String>,
    notice: Option<String>,
    busy: Option<u64>,
    piece: Option<String>,
    done: Option<Done>,
    embedding: Option<Embedding>,
    tokens: Option<Vec<i32>>,
    text: Option<String>,
    state: Option<State>,
    failed: Option<WrittenFailure>,
}

#[derive(Serialize, Deserialize)]
struct WrittenFailure {
    code: Code,
    message: String,
}

impl Message for ToModel {
    type Written = WrittenToModel;

    fn write(self) -> WrittenToModel {
        let mut written: WrittenToModel = Default::default();
        match self {
            Self::Hello(build) => written.bridge = Some(build),
            Self::Load(load) => written.load = Some(*load),
            Self::Cancel(id) => {
                written.id = id;
                written.cancel = Some(true);
            }
            Self::Work(id, work) => {
                written.id = id;
                match work {
                    Work::Generate(request) => written.generate = Some(*request),
                    Work::Embed(text) => written.embed = Some(text),
                    Work::Tokenize(text) => written.tokenize = Some(text),
                    Work::Detokenize(ids) => written.detokenize = Some(ids),
                    Work::Save(name) => written.save = Some(name),
                    Work::Restore(name) => written.restore = Some(name),
                }
            }
        }
        written
    }

    fn read(written: WrittenToModel) -> Option<Self> {
        let id = written.id;
        let work = written
            .generate
            .map(|request| Work::Generate(Box::new(request)))
            .or(written.embed.map(Work::Embed))
            .or(written.tokenize.map(Work::Tokenize))
            .or(written.detokenize.map(Work::Detokenize))
            .or(written.save.map(Work::Save))
            .or(written.restore.map(Work::Restore));
        let load = written.load.map(|load| Self::Load(Box::new(load)));
        let cancel = written.cancel.map(|_| Self::Cancel(id));
        let hello = written.bridge.map(Self::Hello);
        hello
            .or(load)
            .or(cancel)
            .or(work.map(|work| Self::Work(id, work)))
    }
}

impl Message for FromModel {
    type Written = WrittenFromModel;

    fn write(self) -> WrittenFromModel {
        let mut written: WrittenFromModel = Default::default();
        match self {
            Self::Hello(build) => written.hello = Some(build),
            Self::Ready(ready) => written.ready = Some(*ready),
            Self::Refused(reason) => written.refused = Some(reason),
            Self::Notice(notice) => written.notice = Some(notice),
            Self::Busy(milliseconds) => written.busy = Some(milliseconds),
            Self::Piece(id, piece) => {
                written.id = id;
                written.piece = Some(piece);
            }
            Self::Answer(id, outcome) => {
                written.id = id;
                match outcome {
                    Ok(Answer::Generated(done)) => written.done = Some(*done),
                    Ok(Answer::Embedding(embedding)) => written.embedding = Some(embedding),
                    Ok(Answer::Tokens(tokens)) => written.tokens = Some(tokens),
                    Ok(Answer::Text(text)) => written.text = Some(text),
                    Ok(Answer::State(state)) => written.state = Some(state),
                    Err(Failure { code, message }) => {
                        written.failed = Some(WrittenFailure { code, message });
                    }
                }
            }
        }
        written
    }

    fn read(written: WrittenFromModel) -> Option<Self> {
        let id = written.id;
        let answer = written
            .done
            .map(|done| Answer::Generated(Box::new(done)))
            .or(written.embedding.map(Answer::Embedding))
            .or(written.tokens.map(Answer::Tokens))
            .or(written.text.map(Answer::Text))
            .or(written.state.map(Answer::State));
        let failed = written
            .failed
            .map(|failed| Failure::new(failed.code, failed.message));
        let ready = written.ready.map(|ready| Self::Ready(Box::new(ready)));
        let hello = written.hello.map(Self::Hello);
        hello
            .or(ready)
            .or(written.refused.map(Self::Refused))
            .or(written.notice.map(Self::Notice))
            .or(written.busy.map(Self::Busy))
            .or(written.piece.map(|piece| Self::Piece(id, piece)))
            .or(failed.map(|failure| Self::Answer(id, Err(failure))))
            .or(answer.map(|answer| Self::Answer(id, Ok(answer))))
    }
}
