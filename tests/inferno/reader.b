implement Reader;

# Reads a file to its end, having said that it is open.

include "sys.m";
	sys: Sys;

include "draw.m";

Reader: module
{
	init:	fn(ctx: ref Draw->Context, args: list of string);
};

init(nil: ref Draw->Context, args: list of string)
{
	sys = load Sys Sys->PATH;
	fd := sys->open(hd tl args, Sys->OREAD);
	sys->print("reading\n");
	buf := array[8192] of byte;
	while(sys->read(fd, buf, len buf) > 0)
		;
	sys->print("not killed: %r\n");
}
