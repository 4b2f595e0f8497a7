implement PoolTest;

# Several processes ask the alphabet models of the bridges in a pool; then the
# first bridge is stopped, and they ask again.

include "sys.m";
	sys: Sys;

include "draw.m";

include "llambo-ffi.m";
	ffi: LlamboFFI;
	Bridge, Pool: import ffi;

PoolTest: module
{
	init:	fn(ctx: ref Draw->Context, args: list of string);
};

Processes: con 4;
Turns: con 10;

init(ctx: ref Draw->Context, args: list of string)
{
	sys = load Sys Sys->PATH;
	ffi = load LlamboFFI LlamboFFI->PATH;
	ffi->init(ctx, nil);
	p := Pool.new(tl args);
	both(p);
	round(p);
	stop(p, hd tl args);
	round(p);
	p.close();
}

# Stops the bridge at this address, which is one of the two.
stop(p: ref Pool, addr: string)
{
	a := p.acquire();
	b := p.acquire();
	if(b.addr == addr)
		(a, b) = (b, a);
	(ok, msg, nil) := a.send_command("QUIT");
	sys->print("%d %s\n", ok, msg);
	p.release(a);
	p.release(b);
}

# Both bridges are lent at once.
both(p: ref Pool)
{
	a := p.acquire();
	b := p.acquire();
	sys->print("two bridges: %d\n", a.addr != b.addr);
	p.release(a);
	p.release(b);
}

round(p: ref Pool)
{
	done := chan of int;
	for(i := 0; i < Processes; i++)
		spawn ask(p, done);
	right := 0;
	for(i = 0; i < Processes; i++)
		right += <-done;
	sys->print("%d of %d right\n", right, Processes*Turns);
}

ask(p: ref Pool, done: chan of int)
{
	right := 0;
	for(i := 0; i < Turns; i++){
		b := p.acquire();
		if(b == nil)
			continue;
		(ok, nil, text) := b.infer("w");
		if(ok == LlamboFFI->DONE && text == "xyz")
			right++;
		p.release(b);
	}
	done <-= right;
}
