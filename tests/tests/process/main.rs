//! What only makes sense where guests are processes: their calls, their stub, what is left of them; and snapshots that
//! go on on the other platform.

mod across;
mod apart;
mod calls;
mod guests;
mod stub;
