implement Killed;

# Kills a process that waits for a text without an end.
# With an address alone, after the first piece of a stream over a shared Bridge; that is then
# disconnected, and a new one says whether the bridge is free: it serves one client at a time.
# With a fifo, one that wants the whole text, once a byte comes from there.

include "sys.m";
	sys: Sys;

include "draw.m";

include "llambo-ffi.m";
	ffi: LlamboFFI;
	Bridge: import ffi;

Killed: module
{
	init:	fn(ctx: ref Draw->Context, args: list of string);
};

init(ctx: ref Draw->Context, args: list of string)
{
	sys = load Sys Sys->PATH;
	ffi = load LlamboFFI LlamboFFI->PATH;
	ffi->init(ctx, nil);
	addr := hd tl args;
	b := Bridge.connect(addr);
	pids := chan of int;
	if(len args > 2){
		spawn infer(b, pids);
		pid := <-pids;
		b = nil;
		sys->print("asking\n");
		gate := sys->open(hd tl tl args, Sys->OREAD);
		sys->read(gate, array[1] of byte, 1);
		kill(pid);
		sys->print("killed\n");
		sys->read(gate, array[1] of byte, 1);
		return;
	}
	pieces := chan of string;
	spawn stream(b, pids, pieces);
	pid := <-pids;
	<-pieces;
	kill(pid);
	b.disconnect();
	another := Bridge.connect(addr);
	sys->print("free: %d, the first connected: %d\n", another.ping(), b.connected());
}

stream(b: ref Bridge, pids: chan of int, pieces: chan of string)
{
	pids <-= sys->pctl(0, nil);
	b.infer_stream("a", pieces);
}

infer(b: ref Bridge, pids: chan of int)
{
	pids <-= sys->pctl(0, nil);
	b.infer("a");
}

kill(pid: int)
{
	fd := sys->open(sys->sprint("#p/%d/ctl", pid), Sys->OWRITE);
	if(sys->fprint(fd, "kill") < 0)
		sys->print("cannot kill: %r\n");
}
