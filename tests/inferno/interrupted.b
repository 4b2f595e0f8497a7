implement Interrupted;

# Asks for a text that has no end, whole or in pieces, and says how that ended.
# With `leave`, it has enough after the first piece.

include "sys.m";
	sys: Sys;

include "draw.m";

include "llambo-ffi.m";
	ffi: LlamboFFI;
	Bridge: import ffi;

Interrupted: module
{
	init:	fn(ctx: ref Draw->Context, args: list of string);
};

init(ctx: ref Draw->Context, args: list of string)
{
	sys = load Sys Sys->PATH;
	ffi = load LlamboFFI LlamboFFI->PATH;
	ffi->init(ctx, nil);
	b := Bridge.connect(hd tl args);
	ok: int;
	msg: string;
	if(len args > 2){
		pieces := chan of string;
		over := chan of int;
		spawn watch(b, hd tl tl args, pieces, over);
		(ok, msg, nil) = b.infer_stream("a", pieces);
		<-over;
	}else{
		sys->print("asking\n");
		(ok, msg, nil) = b.infer("a");
	}
	sys->print("%d %s\n", ok, msg);
	(ok, msg) = b.get_status();
	sys->print("%d %s\n", ok, msg);
}

watch(b: ref Bridge, mode: string, pieces: chan of string, over: chan of int)
{
	if(<-pieces != nil)
		sys->print("asking\n");
	if(mode == "leave")
		b.disconnect();
	while(<-pieces != nil)
		;
	over <-= 1;
}
