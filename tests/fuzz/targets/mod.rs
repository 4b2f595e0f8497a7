//! What must hold for any bytes, a file for each part of the programs that reads what others write:
//! a function `check` panics where it does not hold. The test run gives it the seeds, libFuzzer
//! everything else.

mod answers;
mod draw;
mod framing;
mod gbnf;
mod json;
mod messages;
mod schema;
mod states;
mod templates;
mod wire;

pub(crate) use draw::Draw;

/// A target.
pub(crate) type Check = fn(&[u8]);

/// The targets by their names, which are those of the folders of seeds.
pub(crate) const ALL: [(&str, Check); 7] = [
    ("framing", framing::check),
    ("json", json::check),
    ("gbnf", gbnf::check),
    ("schema", schema::check),
    ("wire", wire::check),
    ("templates", templates::check),
    ("states", states::check),
];
