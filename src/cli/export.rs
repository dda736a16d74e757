//! `mailsluice export`: every record that names an address, as JSON lines.

use super::args::Export;
use super::choice::Choice;
use super::client::{Client, with_query};
use super::{Failure, print};
use std::io::{BufRead as _, BufReader};

pub(super) fn run(config: &Choice, options: &Export) -> Result<(), Failure> {
    let client = Client::new(config, &options.admin)?;
    let mut lines = BufReader::new(client.stream(&with_query("/export", &[("address", &options.address)]))?);
    let mut line = String::new();
    while lines.read_line(&mut line).map_err(|error| client.broken(error))? > 0 {
        print(&line)?;
        line.clear();
    }
    Ok(())
}
