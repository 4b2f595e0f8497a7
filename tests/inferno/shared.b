implement Shared;

# Eight processes share one Bridge to the alphabet model, each with prompts of its own,
# and count the texts that are the right ones.

include "sys.m";
	sys: Sys;

include "draw.m";

include "llambo-ffi.m";
	ffi: LlamboFFI;
	Bridge: import ffi;

Shared: module
{
	init:	fn(ctx: ref Draw->Context, args: list of string);
};

Processes: con 8;
Turns: con 20;

init(ctx: ref Draw->Context, args: list of string)
{
	sys = load Sys Sys->PATH;
	ffi = load LlamboFFI LlamboFFI->PATH;
	ffi->init(ctx, nil);
	b := Bridge.connect(hd tl args);
	done := chan of int;
	for(i := 0; i < Processes; i++)
		spawn ask(b, 'a'+3*i, done);
	right := 0;
	for(i = 0; i < Processes; i++)
		right += <-done;
	sys->print("%d of %d right\n", right, Processes*Turns);
}

ask(b: ref Bridge, letter: int, done: chan of int)
{
	expected := "";
	for(c := letter+1; c <= 'z'; c++)
		expected[len expected] = c;
	right := 0;
	for(i := 0; i < Turns; i++){
		(ok, nil, text) := b.infer(sys->sprint("%c", letter));
		if(ok == LlamboFFI->DONE && text == expected)
			right++;
	}
	done <-= right;
}
