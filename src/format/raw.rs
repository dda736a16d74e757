//! The `raw` format: CloudMailin's "Raw". The message is a slice between the form's fields, unaltered. Logs nothing;
//! fails with [`OverBudget`].

use super::Rendered;
use super::form::Form;
use super::out::Hold;
use crate::envelope::Envelope;
use crate::message::OverBudget;
use crate::verify::Verification;

pub(super) fn render(envelope: &Envelope, verification: &Verification, message: &[u8], hold: Hold<'_>) -> Result<Rendered, OverBudget> {
    let mut form = Form::new(hold);
    form.open("message")?;
    form.out.message(0..message.len());
    form.close()?;
    form.envelope(envelope, verification)?;
    form.finish()
}
