implement Prompts;

# Asks prompts that need care on the way, and prints each text's bytes.

include "sys.m";
	sys: Sys;

include "draw.m";

include "llambo-ffi.m";
	ffi: LlamboFFI;
	Bridge: import ffi;

Prompts: module
{
	init:	fn(ctx: ref Draw->Context, args: list of string);
};

init(ctx: ref Draw->Context, args: list of string)
{
	sys = load Sys Sys->PATH;
	ffi = load LlamboFFI LlamboFFI->PATH;
	ffi->init(ctx, nil);
	b := Bridge.connect(hd tl args);
	nul := "U+0000 stands here: .";
	nul[len nul-1] = 0;
	ask(b, "Colours:\n1. red\n2. green\n");
	ask(b, "She said \"no\" and wrote C:\\temp, didn't she?");
	ask(b, sys->sprint("A smile: %c", 16r1F600));
	ask(b, nul);
	ask(b, "ends in a carriage return\r");
}

ask(b: ref Bridge, prompt: string)
{
	(ok, msg, text) := b.infer(prompt);
	sys->print("%d %s ", ok, msg);
	bytes := array of byte text;
	for(i := 0; i < len bytes; i++)
		sys->print("%.2x", int bytes[i]);
	sys->print("\n");
}
