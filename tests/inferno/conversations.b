implement Conversations;

# Four processes hold each a conversation of five questions with the alphabet model, all at
# once, through the files below a directory, and count the right answers.

include "sys.m";
	sys: Sys;

include "draw.m";

Conversations: module
{
	init:	fn(ctx: ref Draw->Context, args: list of string);
};

Processes: con 4;
Turns: con 5;

init(nil: ref Draw->Context, args: list of string)
{
	sys = load Sys Sys->PATH;
	done := chan of int;
	for(i := 0; i < Processes; i++)
		spawn converse(hd tl args, 'a'+5*i, done);
	right := 0;
	for(i = 0; i < Processes; i++)
		right += <-done;
	sys->print("%d of %d right\n", right, Processes*Turns);
}

# One file open for writing and reading, as agents hold it.
converse(root: string, letter: int, done: chan of int)
{
	buf := array[64] of byte;
	n := sys->read(sys->open(root+"/new", Sys->OREAD), buf, len buf);
	ask := sys->open(root+"/"+string buf[0:n-1]+"/ask", Sys->ORDWR);
	right := 0;
	for(i := 0; i < Turns; i++){
		expected := "";
		for(c := letter+i+1; c <= 'z'; c++)
			expected[len expected] = c;
		sys->fprint(ask, "%c", letter+i);
		if(i%2)
			n = sys->pread(ask, buf, len buf, big 0);
		else
			n = sys->read(ask, buf, len buf);
		if(n > 0 && string buf[0:n] == expected+"\n")
			right++;
		else
			sys->print("%d %q instead of %q: %r\n", n, string buf[0:n], expected);
	}
	done <-= right;
}
