implement Workers;

# Six processes send four requests each to the alphabet models of a pool, and count right texts.

include "sys.m";
	sys: Sys;

include "draw.m";

include "llambo-ffi.m";
	ffi: LlamboFFI;
	Bridge, Pool: import ffi;

Workers: module
{
	init:	fn(ctx: ref Draw->Context, args: list of string);
};

Processes: con 6;
Turns: con 4;

init(ctx: ref Draw->Context, args: list of string)
{
	sys = load Sys Sys->PATH;
	ffi = load LlamboFFI LlamboFFI->PATH;
	ffi->init(ctx, nil);
	p := Pool.new(tl args);
	done := chan of int;
	for(i := 0; i < Processes; i++)
		spawn ask(p, done);
	right := 0;
	for(i = 0; i < Processes; i++)
		right += <-done;
	sys->print("%d of %d right\n", right, Processes*Turns);
	p.close();
}

ask(p: ref Pool, done: chan of int)
{
	right := 0;
	for(i := 0; i < Turns; i++){
		b := p.acquire();
		if(b == nil){
			sys->print("none: %r\n");
			continue;
		}
		(ok, nil, text) := b.infer("w");
		if(ok == LlamboFFI->DONE && text == "xyz")
			right++;
		p.release(b);
	}
	done <-= right;
}
