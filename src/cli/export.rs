//! `mailsluice export`: every record that names an address, as JSON lines.

use super::args::Export;
use super::choice::Choice;
use super::client::{Client, with_query};
use super::{Failure, print};
use std::io::{BufRead as _, BufReader};

pub(super) fn run(config: &Choice, options: &Export) -> Result<(), Failure> {
    let client = Client::new(config, &options.admin)?;
    let mut query = vec![("address", options.address.as_str())];
    query.extend(options.fleet.then_some(("fleet", "true")));
    let mut lines = BufReader::new(client.stream(&with_query("/export", &query))?);
    let mut line = String::new();
    while lines.read_line(&mut line).map_err(|error| client.broken(error))? > 0 {
        print(&line)?;
        line.clear();
    }
    if options.fleet {
        super::fleet::complain_of(super::fleet::boxes(&client)?.get("boxes"));
    }
    Ok(())
}
