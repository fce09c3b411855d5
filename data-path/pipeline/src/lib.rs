//! What happens to a frame: parse, look up, check, resolve, meter, rewrite, verdict.
