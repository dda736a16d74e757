//! The octets of a message: owned, counted, scanned; and what its MIME structure says is in it. Knows nothing of
//! where they came from.

pub mod address_field;
pub mod body;
pub mod budget;
pub mod charset;
mod charset_label;
pub mod encoded_word;
pub mod field;
mod guard;
pub mod header;
pub mod iso_2022;
pub mod mime;
pub mod parameter;
pub mod reply_text;
mod reply_words;
pub mod sample;
mod spare;
pub mod transfer;

pub use body::Body;
pub use budget::{Budget, Lease, OverBudget, Share};
