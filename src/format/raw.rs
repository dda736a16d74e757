//! The `raw` format: CloudMailin's "Raw". The message is a slice behind the envelope's fields, unaltered: a
//! receiver with a bound on fields has the envelope. Logs nothing;
//! fails with [`OverBudget`].

use super::Rendered;
use super::form::Form;
use super::out::Hold;
use crate::envelope::Envelope;
use crate::message::OverBudget;
use crate::verify::Verification;

pub(super) fn render(envelope: &Envelope, verification: &Verification, message: &[u8], hold: Hold<'_>) -> Result<Rendered, OverBudget> {
    let mut form = Form::new(hold);
    form.envelope(envelope, verification)?;
    form.open("message")?;
    form.out.message(0..message.len());
    form.close()?;
    form.finish()
}
