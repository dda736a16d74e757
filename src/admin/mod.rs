//! (lead or admin fills this)
