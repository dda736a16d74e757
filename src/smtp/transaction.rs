//! A mail transaction, MAIL to end of data (RFC 5321 section 3.3): each command is checked first, then acted on. Logs nothing; a check
//! that fails is a reply, and leaves everything as it was.

use super::command::after_keyword;
use super::extension::{self, MailParameters};
use super::path;
use super::reply;
use super::{Reply, Settings};
use crate::mailbox::as_named;
use std::collections::HashSet;

#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) reverse_path: String,
    pub(super) recipients: Vec<String>,
    /// Of all of them.
    pub(super) octets: usize,
    /// The same, each as the one text of its mailbox.
    named: HashSet<Box<str>>,
    pub(super) declared_size: Option<u64>,
    pub(super) smtputf8: bool,
    refused: usize,
    /// RCPT was tried, so that none left means "all refused" and not "none given".
    rcpt_tried: bool,
    /// Its data have begun.
    pub(super) begun: bool,
}

impl Transaction {
    /// The argument of MAIL.
    pub(super) fn open(argument: &str, settings: &Settings) -> Result<Self, Reply> {
        let argument = after_keyword(argument, "FROM:").ok_or(reply::MAIL_SYNTAX)?;
        let path = path::reverse(argument).map_err(path::PathError::sender_reply)?;
        let parameters = MailParameters::parse(path.rest)?;
        if !path.ascii && !parameters.smtputf8 {
            return Err(reply::NON_ASCII_ADDRESS);
        }
        if parameters.size.is_some_and(|size| size > settings.max_message_size) {
            return Err(reply::MESSAGE_TOO_LARGE);
        }
        Ok(Self {
            reverse_path: path.mailbox,
            recipients: Vec::new(),
            octets: 0,
            named: HashSet::new(),
            declared_size: parameters.size,
            smtputf8: parameters.smtputf8,
            refused: 0,
            rcpt_tried: false,
            begun: false,
        })
    }

    /// The argument of RCPT; gives the mailbox to ask about, `None` for one that has been accepted already.
    pub(super) fn check_recipient(&mut self, argument: &str, settings: &Settings) -> Result<Option<String>, Reply> {
        if self.begun {
            return Err(reply::CHUNKS_BEGUN);
        }
        self.rcpt_tried = true;
        let argument = after_keyword(argument, "TO:").ok_or(reply::RCPT_SYNTAX)?;
        let path = path::forward(argument).map_err(path::PathError::recipient_reply)?;
        extension::check_rcpt_parameters(path.rest)?;
        if !path.ascii && !self.smtputf8 {
            return Err(reply::NON_ASCII_ADDRESS);
        }
        let bare = !path.mailbox.contains('@') && settings.postmaster.contains('@');
        let mailbox = if bare { settings.postmaster.clone() } else { path.mailbox };
        if self.named.contains(&*as_named(&mailbox)) {
            return Ok(None);
        }
        if self.recipients.len() >= settings.max_recipients {
            return Err(reply::TOO_MANY_RECIPIENTS);
        }
        Ok(Some(mailbox))
    }

    pub(super) fn accept(&mut self, mailbox: String) {
        self.named.insert(as_named(&mailbox).into());
        self.octets += mailbox.len();
        self.recipients.push(mailbox);
    }

    /// Another recipient was refused for good; so many are.
    pub(super) fn refuse(&mut self) -> usize {
        self.refused += 1;
        self.refused
    }

    /// May data follow? Pipelined behind recipients that were all refused, DATA must not get a 354 (RFC 2920 section 3.1).
    pub(super) fn check_recipients(&self) -> Result<(), Reply> {
        match (self.recipients.is_empty(), self.rcpt_tried) {
            (false, _) => Ok(()),
            (true, true) => Err(reply::NO_VALID_RECIPIENTS),
            (true, false) => Err(reply::RCPT_FIRST),
        }
    }
}
