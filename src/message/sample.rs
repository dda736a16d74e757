//! A sample message, for trying out. Pure but for the clock.

/// A message with something to see for every part of the request: both texts and an attachment.
#[must_use]
pub fn message(from: &str, to: &[String], own_name: &str) -> Vec<u8> {
    let now = jiff::Timestamp::now();
    let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_string(&now).unwrap_or_default();
    let id = now.as_nanosecond();
    let sender = if from.is_empty() { "postmaster@localhost" } else { from };
    let text = format!(
        "From: Sample Sender <{sender}>\r\n\
         To: {to}\r\n\
         Subject: =?UTF-8?Q?A_sample_message_=E2=9C=94?=\r\n\
         Date: {date}\r\n\
         Message-ID: <{id}@{own_name}>\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=outer\r\n\
         \r\n\
         --outer\r\n\
         Content-Type: multipart/alternative; boundary=inner\r\n\
         \r\n\
         --inner\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\
         \r\n\
         Hello,\r\n\
         \r\n\
         this message was made by mailsluice.\r\n\
         --inner\r\n\
         Content-Type: text/html; charset=utf-8\r\n\
         \r\n\
         <p>Hello,</p>\r\n\
         <p>this message was made by <b>mailsluice</b>.</p>\r\n\
         --inner--\r\n\
         --outer\r\n\
         Content-Type: text/csv; name=\"numbers.csv\"\r\n\
         Content-Disposition: attachment; filename=\"numbers.csv\"\r\n\
         Content-Transfer-Encoding: base64\r\n\
         \r\n\
         bnVtYmVyLHNxdWFyZQoxLDEKMiw0CjMsOQo=\r\n\
         --outer--\r\n",
        to = to.join(", "),
    );
    text.into_bytes()
}
