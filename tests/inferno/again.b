implement Again;

# Asks, waits for a byte from a fifo, and asks again over the same Bridge.

include "sys.m";
	sys: Sys;

include "draw.m";

include "llambo-ffi.m";
	ffi: LlamboFFI;
	Bridge: import ffi;

Again: module
{
	init:	fn(ctx: ref Draw->Context, args: list of string);
};

init(ctx: ref Draw->Context, args: list of string)
{
	sys = load Sys Sys->PATH;
	ffi = load LlamboFFI LlamboFFI->PATH;
	ffi->init(ctx, nil);
	b := Bridge.connect(hd tl args);
	ask(b);
	fd := sys->open(hd tl tl args, Sys->OREAD);
	sys->read(fd, array[1] of byte, 1);
	ask(b);
}

ask(b: ref Bridge)
{
	(ok, msg, text) := b.infer("w");
	sys->print("%d %s %s\n", ok, msg, text);
}
