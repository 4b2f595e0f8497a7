implement LlamboFFITest;

#
# Tests LlamboFFI: the module itself against a scripted bridge inside Inferno,
# then both against a real one, and the files of llambofs if they are mounted.
# The last line is the verdict.
#

include "sys.m";
	sys: Sys;
	print, sprint: import sys;

include "draw.m";

include "arg.m";

include "llambo-ffi.m";
	ffi: LlamboFFI;
	Bridge, Pool, Chat, Answer: import ffi;

LlamboFFITest: module
{
	init:	fn(ctx: ref Draw->Context, args: list of string);
};

DONE: con LlamboFFI->DONE;
REFUSED: con LlamboFFI->REFUSED;
HUNGUP: con LlamboFFI->HUNGUP;

PONG: con "{\"status\":\"ok\",\"message\":\"pong\"}\n";
Pings: con 1000;
Sharers: con 8;
Tries: con 10;		# a model may end a text before its first word, but not time after time
Turns: con 50;		# requests of each of the processes that share a Bridge

passed, failed: int;

init(ctx: ref Draw->Context, args: list of string)
{
	sys = load Sys Sys->PATH;
	arg := load Arg Arg->PATH;
	ffi = load LlamboFFI LlamboFFI->PATH;
	if(arg == nil || ffi == nil){
		sys->fprint(sys->fildes(2), "llambo-ffi-test: cannot load a module: %r\n");
		raise "fail:load";
	}
	ffi->init(ctx, nil);

	addr, root: string;
	others: list of string;
	arg->init(args);
	arg->setusage("llambo-ffi-test [-a address] [-o other-address-of-the-same-bridge]... [-m mountpoint] [model]");
	while((c := arg->opt()) != 0)
		case c {
		'a' =>
			addr = arg->earg();
		'm' =>
			root = arg->earg();
		'o' =>
			others = arg->earg() :: others;
		* =>
			arg->usage();
		}
	args = arg->argv();
	model := "";
	if(args != nil){
		model = hd args;
		args = tl args;
	}
	if(args != nil)
		arg->usage();

	pid := sys->pctl(Sys->NEWPGRP|Sys->FORKNS, nil);
	if(sys->bind("#s", "/chan", Sys->MBEFORE) < 0){
		sys->fprint(sys->fildes(2), "llambo-ffi-test: cannot bind #s to /chan: %r\n");
		raise "fail:bind";
	}
	framing();
	replies();
	breakdowns();
	streams();
	killing();
	conversation();
	pooltest();
	live(addr, others, root, model);

	# The scripted bridges would serve for ever.
	ctl := sys->open(sprint("#p/%d/ctl", pid), Sys->OWRITE);
	if(ctl != nil)
		sys->fprint(ctl, "killgrp");
	print("verdict: %d passed, %d failed\n", passed, failed);
	if(failed)
		raise "fail:tests";
}

check(what: string, good: int, found: string)
{
	if(good){
		passed++;
		print("ok: %s\n", what);
	}else{
		failed++;
		print("FAILED: %s: found %q\n", what, found);
	}
}

same(what, found, expected: string)
{
	check(what, found == expected, found);
}

refused(what: string, result: (int, string, string), expected: string)
{
	(ok, msg, nil) := result;
	check(what, ok == REFUSED && msg == expected, sprint("%d %s", ok, msg));
}

# A transport failure, after which the Bridge is closed.
broken(what: string, b: ref Bridge, expected: string)
{
	(ok, msg) := b.get_status();
	check(what, ok == HUNGUP && ends(msg, expected), sprint("%d %s", ok, msg));
	check(what + ": the Bridge is closed", !b.connected() && b.ping() == HUNGUP, "open");
}

#
# A bridge that plays a script: one entry for each request, then end-of-file.
# An entry that does not end in a newline is followed by end-of-file too;
# after SILENCE the request is never answered.
#
SILENCE: con "silence";

count := 0;

scripted(script: list of string): (ref Bridge, chan of string)
{
	(addr, requests) := serve(script);
	b := Bridge.connect(addr);
	if(b == nil){
		print("FAILED: cannot connect to %s: %r\n", addr);
		raise "fail:script";
	}
	return (b, requests);
}

serve(script: list of string): (string, chan of string)
{
	name := sprint("llambo-ffi-test.%d.%d", sys->pctl(0, nil), count++);
	io := sys->file2chan("/chan", name);
	if(io == nil){
		print("FAILED: cannot make /chan/%s: %r\n", name);
		raise "fail:script";
	}
	requests := chan[64] of string;
	spawn play(io, script, requests);
	return ("/chan/" + name, requests);
}

play(io: ref Sys->FileIO, script: list of string, requests: chan of string)
{
	out := array[0] of byte;
	over := 0;
	waiting: Sys->Rread;
	room := 0;
	for(;;){
		alt{
		(nil, n, nil, rc) := <-io.read =>
			if(rc == nil)
				(out, over) = (nil, 0);		# closed: the next client starts afresh
			(waiting, room) = (rc, n);
		(nil, data, nil, wc) := <-io.write =>
			if(wc == nil)
				break;
			requests <-= string data;
			wc <-= (len data, nil);
			if(script == nil)
				over = 1;
			else if(hd script == SILENCE)
				script = tl script;
			else{
				out = array of byte hd script;
				over = len out == 0 || out[len out-1] != byte '\n';
				script = tl script;
			}
		}
		if(waiting != nil && (len out > 0 || over)){
			n := len out;
			if(n > room)
				n = room;
			waiting <-= (out[0:n], nil);
			out = out[n:];
			waiting = nil;
		}
	}
}

ok(members: string): string
{
	return "{\"status\":\"ok\",\"message\":\"done\"" + members + "}\n";
}

#
# what goes over the connection
#

framing()
{
	script: list of string;
	for(i := 0; i < 20; i++)
		script = PONG :: script;
	(b, requests) := scripted(script);
	b.ping();
	same("PING is a line", <-requests, "PING\n");
	b.infer("Hello, world!");
	same("a prompt of one line is a line", <-requests, "STREAM Hello, world!\n");
	b.infer("one\ntwo");
	same("a prompt with a newline is a netstring", <-requests, "14:STREAM one\ntwo,");
	b.infer("é\n");
	same("a netstring counts bytes", <-requests, "10:STREAM é\n,");
	b.infer("ends in a carriage return\r");
	same("a prompt that ends in a carriage return is a netstring", <-requests, "33:STREAM ends in a carriage return\r,");
	nul := "a b";
	nul[1] = 0;
	b.infer(nul);
	same("a prompt with U+0000 is a netstring", <-requests, "10:STREAM " + nul + ",");
	b.send_command("9 lives");
	same("a command that begins with a digit is a netstring", <-requests, "7:9 lives,");
	b.send_command("");
	same("an empty command is an empty netstring", <-requests, "0:,");
	b.send_command("PING\nQUIT");
	same("a newline starts no second command", <-requests, "9:PING\nQUIT,");
	b.infer("  two blanks first");
	same("a prompt that begins with blanks is a netstring", <-requests, "25:STREAM   two blanks first,");
	b.embed("\tx");
	same("so is a text to embed", <-requests, "8:EMBED \tx,");
	b.load_model(" /blank.gguf");
	same("and a path", <-requests, "17:LOAD  /blank.gguf,");
	b.chat("a \"message\"");
	same("a message goes with its role", <-requests, "GENERATE {\"messages\":[{\"role\":\"user\",\"content\":\"a \\\"message\\\"\"}],\"stream\":true}\n");
	b.generate(" {\"prompt\":\"x\"}");
	same("an object asks for a stream", <-requests, "38:GENERATE  {\"stream\":true,\"prompt\":\"x\"},");
	b.generate("{}");
	same("an empty one too", <-requests, "GENERATE {\"stream\":true}\n");
	b.generate("{\"stream\":false}");
	same("unless it says what it wants", <-requests, "GENERATE {\"stream\":false}\n");
	b.generate("[1]");
	same("what is no object goes as it is", <-requests, "GENERATE [1]\n");
	b.load_model("/models/with blanks.gguf");
	same("a path with blanks goes as it is", <-requests, "LOAD /models/with blanks.gguf\n");
	b.disconnect();
}

replies()
{
	emoji := sprint("%c", 16r1F600);
	megabyte := string array[1024*1024] of {* => byte 'x'};
	(b, nil) := scripted(
		ok(",\"data\":\"\\ud83d\\ude00\"") ::
		ok(",\"data\":\"a\\ud83d-\\ude00\"") ::
		ok(",\"data\":\"" + emoji + "\"") ::
		ok(",\"data\":\"\\u0000z\"") ::
		ok(",\"data\":\"" + megabyte + "\"") ::
		ok(",\"data\":\"t\",\"finish_reason\":\"stop\",\"prompt_tokens\":3,\"cached_tokens\":2,\"completion_tokens\":1,\"prompt_ms\":1.5,\"completion_ms\":2,\"seed\":4294967295") ::
		ok(",\"embedding\":[0.6,-8e-1,0]") ::
		ok(",\"parameters\":134515008,\"chat_template\":true,\"model\":\"/m.gguf\"") ::
		"{\"status\":\"error\",\"message\":\"No model loaded\",\"code\":\"no_model\"}\n" ::
		"{\"status\":\"error\",\"message\":\"Wait\",\"code\":\"busy\"}\n" :: PONG :: nil);
	(nil, nil, s) := b.infer("pair");
	same("a surrogate pair is joined", s, emoji);
	(nil, nil, s) = b.infer("halves");
	same("a lone surrogate becomes U+FFFD", s, sprint("a%c-%c", 16rFFFD, 16rFFFD));
	(nil, nil, s) = b.infer("raw");
	same("a character beyond U+FFFF arrives", s, emoji);
	(nil, nil, s) = b.infer("nul");
	check("U+0000 arrives", len s == 2 && s[0] == 0 && s[1] == 'z', s);
	(nil, nil, s) = b.infer("megabyte");
	check("a reply of 1 MB arrives whole", s == megabyte, sprint("%d characters", len s));
	(nil, nil, a) := b.generate("{}");
	check("statistics are read", a != nil && a.text == "t" && a.finish_reason == "stop" && a.prompt_tokens == 3 &&
		a.cached_tokens == 2 && a.completion_tokens == 1 && a.prompt_ms == 1.5 && a.completion_ms == 2.0 &&
		sprint("%bd", a.seed) == "4294967295",
		sprint("%s %s %d %d %d %g %g %bd", a.text, a.finish_reason, a.prompt_tokens, a.cached_tokens, a.completion_tokens, a.prompt_ms, a.completion_ms, a.seed));
	(nil, nil, e) := b.embed("x");
	check("an embedding is read", len e == 3 && e[0] == 0.6 && e[1] == -0.8 && e[2] == 0.0, sprint("%d numbers", len e));
	(nil, nil, info) := b.info();
	s = "";
	for(; info != nil; info = tl info)
		s += (hd info).t0 + "=" + (hd info).t1 + " ";
	same("info gives every member", s, "parameters=134515008 chat_template=true model=/m.gguf ");
	(r, msg, fields) := b.request("INFER x");
	s = "";
	for(; fields != nil; fields = tl fields)
		s = (hd fields).t1;
	check("an error's code is in its fields", r == REFUSED && msg == "No model loaded" && s == "no_model", s);
	(r, msg) = b.get_status();
	check("and in the Bridge after any request", r == REFUSED && msg == "Wait" && b.code == "busy", b.code);
	b.ping();
	check("until the next", b.code == nil, b.code);
	b.disconnect();
}

breakdowns()
{
	(b, nil) := scripted(nil);
	broken("a bridge that hangs up", b, "the bridge hung up");
	(b, nil) = scripted("{\"status\":\"ok\",\"mess" :: nil);
	broken("a bridge that hangs up in the middle of a reply", b, "the bridge hung up in the middle of a reply");
	(b, nil) = scripted("HTTP/1.1 400 Bad Request\n" :: nil);
	broken("a server that is no bridge", b, "not a reply of llama-cpp-bridge: 'HTTP/1.1 400 Bad Request'");
	(b, nil) = scripted("{\"message\":\"pong\"}\n" :: nil);
	broken("a reply without status", b, "not a reply of llama-cpp-bridge: '{\"message\":\"pong\"}'");
	(b, nil) = scripted("\n" :: nil);
	broken("an empty reply", b, "not a reply of llama-cpp-bridge: ''");
	(b, nil) = scripted(ok(",\"data\":\"" + string array[3000] of {* => byte 'x'} + "\"") :: nil);
	b.maxreply = 2000;
	broken("a reply beyond the limit", b, "reply longer than 2000 bytes");
	(b, nil) = scripted(PONG :: nil);
	b.maxreply = len PONG - 1;
	check("a reply of the limit arrives", b.ping() == DONE, sprint("%r"));
	(b, nil) = scripted(PONG :: nil);
	b.maxreply = len PONG - 2;
	broken("a reply of the limit and one byte", b, sprint("reply longer than %d bytes", len PONG - 2));
}

#
# streams
#

piece(s: string): string
{
	return "{\"status\":\"partial\",\"message\":\"token\",\"data\":\"" + s + "\"}\n";
}

# Receives what a stream sends, up to its nil; the pieces are joined with |.
collect(pieces, result: chan of string)
{
	s := "";
	while((p := <-pieces) != nil)
		s += p + "|";
	result <-= s;
}

streams()
{
	pieces := chan of string;
	result := chan of string;
	(b, nil) := scripted(
		piece("He") + piece("") + piece("llo") + ok(",\"data\":\"Hello\"") ::
		"{\"status\":\"error\",\"message\":\"No model loaded\",\"code\":\"no_model\"}\n" ::
		ok(",\"data\":\"Hello\"") ::
		piece("skipped") + ok(",\"data\":\"whole\"") ::
		piece("one") + "{" :: nil);
	spawn collect(pieces, result);
	(r, nil, text) := b.infer_stream("x", pieces);
	same("a stream's pieces arrive, then nil", <-result, "He|llo|");
	check("and the whole text", r == DONE && text == "Hello", text);
	spawn collect(pieces, result);
	msg: string;
	(r, msg, nil) = b.infer_stream("x", pieces);
	check("a refused stream ends with nil too", <-result == "" && r == REFUSED && msg == "No model loaded", msg);
	spawn collect(pieces, result);
	b.generate_stream("{\"prompt\":\"x\"}", pieces);
	same("a text that came at once is one piece", <-result, "Hello|");
	(nil, nil, text) = b.send_command("STREAM x");
	same("pieces that nobody wants are passed over", text, "whole");
	spawn collect(pieces, result);
	(r, nil, nil) = b.infer_stream("x", pieces);
	joined := <-result;
	check("a stream that breaks off ends with nil too", joined == "one|" && r == HUNGUP, joined);

	(b, nil) = scripted(piece("a") + piece("b") + piece("c") + ok("") :: nil);
	done := chan of int;
	spawn streamer(b, pieces, done);
	<-pieces;
	b.disconnect();
	n := 0;
	while(<-pieces != nil)
		n++;
	check("disconnect ends another process's stream at its next piece", <-done == HUNGUP && n <= 1, sprint("%d more", n));
}

streamer(b: ref Bridge, pieces: chan of string, done: chan of int)
{
	(r, nil, nil) := b.infer_stream("x", pieces);
	done <-= r;
}

#
# killed processes, and conversations
#

killing()
{
	(b, nil) := scripted(SILENCE :: ok("") :: SILENCE :: SILENCE :: nil);
	pids := chan of int;
	spawn asker(b, pids);
	kill(<-pids);
	(r, msg) := b.get_status();
	check("a Bridge goes on after a process that had a request was killed", r == DONE, msg);
	spawn asker(b, pids);
	asking := <-pids;
	done := chan of int;
	spawn status(b, done);		# waits for its turn
	kill(asking);
	b.disconnect();
	check("disconnect reaches those who wait for the turn of a killed process", <-done == HUNGUP, "another end");
}

asker(b: ref Bridge, pids: chan of int)
{
	spawn whenheld(b, sys->pctl(0, nil), pids);
	b.ping();
}

# Gives the process's number once the request is under way.
whenheld(b: ref Bridge, pid: int, pids: chan of int)
{
	while(b.holder != pid)
		sys->sleep(1);
	pids <-= pid;
}

status(b: ref Bridge, done: chan of int)
{
	(r, nil) := b.get_status();
	done <-= r;
}

kill(pid: int)
{
	ctl := sys->open(sprint("#p/%d/ctl", pid), Sys->OWRITE);
	if(ctl == nil || sys->fprint(ctl, "kill") < 0)
		print("FAILED: cannot kill %d: %r\n", pid);
}

conversation()
{
	stats := ",\"finish_reason\":\"stop\",\"prompt_tokens\":9,\"cached_tokens\":0,\"completion_tokens\":2,\"prompt_ms\":1,\"completion_ms\":1,\"seed\":1";
	(b, requests) := scripted(
		ok(",\"data\":\"Hello.\"" + stats) ::
		"{\"status\":\"error\",\"message\":\"It does not fit\",\"code\":\"context_exceeded\"}\n" ::
		piece("Good") + piece("bye.") + ok(",\"data\":\"Goodbye.\"" + stats) ::
		ok(",\"data\":\"\"" + stats) :: nil);
	c := Chat.new(b, "Be brief.");
	(r, nil, text) := c.ask("Hi");
	same("a conversation begins with what the system says", <-requests, "GENERATE {\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":\"Hi\"}],\"stream\":true}\n");
	check("and is answered", r == DONE && text == "Hello." && c.answer != nil && c.answer.prompt_tokens == 9, text);
	c.system = nil;
	msg: string;
	(r, msg, nil) = c.ask("Long");
	check("a question that is refused", r == REFUSED && msg == "It does not fit", msg);
	<-requests;
	same("leaves the conversation as it was", c.messages(), "[{\"role\":\"user\",\"content\":\"Hi\"},{\"role\":\"assistant\",\"content\":\"Hello.\"}]");
	c.fields = ("max_tokens", "8") :: nil;
	pieces := chan of string;
	result := chan of string;
	spawn collect(pieces, result);
	(r, nil, text) = c.ask_stream("Bye", pieces);
	same("an answer comes in pieces", <-result, "Good|bye.|");
	check("and whole", r == DONE && text == "Goodbye.", text);
	same("what was said goes along", <-requests, "GENERATE {\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"},{\"role\":\"assistant\",\"content\":\"Hello.\"},{\"role\":\"user\",\"content\":\"Bye\"}],\"stream\":true,\"max_tokens\":8}\n");
	c.reset();
	c.add("assistant", "I am here.");
	c.fields = nil;
	c.ask("A \"question\"");
	same("after a reset only what was added", <-requests, "GENERATE {\"messages\":[{\"role\":\"assistant\",\"content\":\"I am here.\"},{\"role\":\"user\",\"content\":\"A \\\"question\\\"\"}],\"stream\":true}\n");
	b.disconnect();
}

#
# the pool
#

pooltest()
{
	(other, nil) := scripted(nil);
	check("a pool without addresses is refused", Pool.new(nil) == nil, "a pool");
	(one, nil) := serve(PONG :: PONG :: PONG :: PONG :: PONG :: nil);
	(two, nil) := serve(PONG :: PONG :: PONG :: PONG :: nil);
	p := Pool.new(one :: two :: nil);
	a := p.acquire();
	b := p.acquire();
	check("two bridges are lent, each once", a != nil && b != nil && a.addr == one && b.addr == two, "others");
	got := chan of ref Bridge;
	spawn acquirer(p, got);
	sys->sleep(0);		# lets the other process run, if it does not block
	early := 0;
	alt{
	<-got =>
		early = 1;
	* =>
		;
	}
	check("a third waits", !early, "a bridge");
	p.release(b);
	check("and gets what is released", <-got == b, "another");
	check("a bridge cannot be released twice", p.release(a) == 0 && p.release(a) < 0, "it was");
	check("nor one of others", p.release(other) < 0, "it was");
	c := p.acquire();
	check("a bridge is lent again", c == a, "another");
	c.disconnect();
	p.release(c);
	c = p.acquire();
	check("one that hung up is replaced", c != nil && c != a && c.addr == one && c.ping() == DONE, sprint("%r"));
	spawn acquirer(p, got);	# both are lent
	sys->sleep(0);
	p.close();
	p.release(c);
	check("a process that waits for a closed pool gets nothing", <-got == nil, "a bridge");
	check("a closed pool closes what is released", !c.connected(), "open");
	check("and lends nothing", p.acquire() == nil && sprint("%r") == "the pool is closed", sprint("%r"));

	p = Pool.new("/nowhere/a.sock" :: one :: nil);
	a = p.acquire();
	check("a bridge that cannot be reached is passed over", a != nil && a.addr == one, sprint("%r"));
	(bad, nil) := serve(nil);
	good: list of string;
	for(i := 0; i < 2*Turns; i++)
		good = PONG :: good;
	(three, requests) := serve(good);
	spawn drain(requests);
	p = Pool.new(bad :: three :: nil);
	n := 0;
	for(i = 0; i < Turns; i++)
		if((a = p.acquire()) != nil){
			n += a.addr == three && a.ping() == DONE;
			p.release(a);
		}
	check("one that accepts and hangs up is never lent", n == Turns, sprint("%d of %d", n, Turns));
	silent := sprint("llambo-ffi-test.%d.silent", sys->pctl(0, nil));
	io := sys->file2chan("/chan", silent);	# takes a request, but nobody reads it
	(four, nil) := serve(PONG :: PONG :: nil);
	p = Pool.new("/chan/"+silent :: four :: nil);
	a = p.acquire();
	check("one that does not answer holds nobody up", a != nil && a.addr == four, sprint("%r"));
	spawn acquirer(p, got);
	p.release(a);
	check("nor anybody else", (<-got).addr == four && io != nil, "another");
	p = Pool.new("/nowhere/a.sock" :: "/nowhere/b.sock" :: nil);
	check("a pool that reaches nothing says so", p.acquire() == nil && contains(sprint("%r"), "/nowhere/"), sprint("%r"));
}

drain(requests: chan of string)
{
	while(<-requests != nil)
		;
}

acquirer(p: ref Pool, got: chan of ref Bridge)
{
	got <-= p.acquire();
}

#
# a real bridge: connection, model loading, inference, cleanup
#

live(addr: string, others: list of string, root, model: string)
{
	unreachable("/nowhere/llama-cpp-bridge.sock", "does not exist");
	unreachable("unix!relative.sock", "must begin with /");
	unreachable("unix!", "the path of a socket must follow");
	unreachable("exec!", "a command must follow");
	unreachable("exec! ", "a command must follow");
	unreachable("/n/remote/llama/bridge.sock", "not in the name space; on the host: ");
	unreachable("./nowhere.sock", "does not exist");
	unreachable("#U*/nowhere.sock", "does not exist");
	long := "";
	for(i := 0; i < 20; i++)
		long += "/directory";
	unreachable(long + "/bridge.sock", "does not exist");
	unreachable("unix!" + long + "/bridge.sock", "does not exist");
	unreachable("unix!/tmp", "is a directory, not a socket");
	unreachable("/dis/lib/llambo-ffi.dis", "is a file, not a socket");
	unreachable("nonsense", "is no address");
	unreachable("exec!false", "hung up");
	unreachable("exec!sh -c 'echo the reason >&2'", "the reason");
	b := Bridge.connect(addr);
	check("the bridge is there", b != nil, sprint("%r"));
	if(b == nil)
		return;
	check("it answers PING", b.ping() == DONE, sprint("%r"));
	for(; others != nil; others = tl others){
		# The bridge serves one client at a time, in the order of connecting.
		b.disconnect();
		b = Bridge.connect(hd others);
		check("it answers through " + hd others, b != nil && b.ping() == DONE, sprint("%r"));
		if(b != nil)
			b.disconnect();
		b = Bridge.connect(addr);
	}
	before := loaded(b);
	commands(b);
	sharing(b);
	roundtrip(b);
	loading(b, model);
	if(model != nil){
		inference(b);
		chatting(b);
	}
	if(root != nil){
		b.disconnect();
		files(root, model);
		b = Bridge.connect(addr);
	}
	cleanup(b);
	restored(addr, before);
}

# The path of the model that is loaded; nil if none is.
loaded(b: ref Bridge): string
{
	prefix := "Model loaded: ";
	(nil, msg) := b.get_status();
	if(len msg > len prefix && msg[0:len prefix] == prefix)
		return msg[len prefix:];
	return nil;
}

unreachable(addr, why: string)
{
	b := Bridge.connect(addr);
	err := sprint("%r");
	check("connecting to " + addr + " says why not", b == nil && contains(err, why), err);
}

commands(b: ref Bridge)
{
	refused("an unknown command is refused", b.send_command("JUMP high"), "Unknown command: JUMP");
	refused("so is one with a newline, as one command", b.send_command("JUMP\nQUIT"), "Unknown command: JUMP\nQUIT");
	refused("an empty command is refused", b.send_command(""), "Empty request");
	refused("an empty prompt is refused", b.infer(""), "No prompt provided");
	(r, msg, nil) := b.send_command("ping");
	check("case does not matter", r == DONE && msg == "pong", msg);
	long := string array[1024*1024] of {* => byte 'x'};
	(r, msg) = b.load_model("/" + long);
	check("a request and a reply of 1 MB pass", r == REFUSED && contains(msg, long), sprint("%d, %d characters", r, len msg));
}

sharing(b: ref Bridge)
{
	done := chan of int;
	for(i := 0; i < Sharers; i++)
		spawn sharer(b, i, done);
	good := 0;
	for(i = 0; i < Sharers; i++)
		good += <-done;
	check(sprint("%d processes share one Bridge", Sharers), good == Sharers*Turns, sprint("%d right answers", good));
}

sharer(b: ref Bridge, i: int, done: chan of int)
{
	good := 0;
	for(n := 0; n < Turns; n++){
		word := sprint("WORD-%d-%d", i, n);
		(r, msg, nil) := b.send_command(word);
		if(r == REFUSED && msg == "Unknown command: " + word)
			good++;
	}
	done <-= good;
}

roundtrip(b: ref Bridge)
{
	t := sys->millisec();
	for(i := 0; i < Pings; i++)
		b.ping();
	t = sys->millisec()-t;
	print("PING round trip: %d us, the mean of %d\n", t*1000/Pings, Pings);
}

loading(b: ref Bridge, model: string)
{
	b.free_model();
	(r, msg) := b.get_status();
	check("no model is loaded", r == DONE && msg == "No model loaded", msg);
	refused("inference without a model is refused", b.infer("Hello"), "No model loaded");
	(r, msg) = b.load_model("/nowhere/model.gguf");
	check("a model that is not there is refused", r == REFUSED && contains(msg, "/nowhere/model.gguf"), msg);
	if(model == nil)
		return;
	(r, msg) = b.load_model(model);
	check("the model loads", r == DONE && msg == "Model loaded successfully", msg);
	(r, msg) = b.get_status();
	check("status names it", r == DONE && msg == "Model loaded: " + model, msg);
	(r, msg) = b.load_model("/nowhere/model.gguf");
	check("a load that fails is refused", r == REFUSED, msg);
	(r, msg) = b.get_status();
	check("and leaves the model in place", r == DONE && msg == "Model loaded: " + model, msg);
}

inference(b: ref Bridge)
{
	nul := "before-after";
	nul[6] = 0;
	text := "";
	for(i := 0; i < Tries && text == nil; i++)
		(nil, nil, text) = b.infer("Hello, world!");
	check("a prompt is answered with text", text != nil, sprint("%r"));
	answered("a prompt with newlines", b.infer("Three colours:\n1. red\n2. green\n"));
	answered("a prompt with quotes and backslashes", b.infer("She said \"no\\yes\" and 'left'"));
	answered("a prompt with emoji", b.infer(sprint("A smile %c means", 16r1F600)));
	answered("a prompt with U+0000", b.infer(nul));
	(r, msg, fields) := b.request("INFER Hello");
	check("the reply has three members", r == DONE && len fields == 3, msg);
}

answered(what: string, result: (int, string, string))
{
	(r, msg, nil) := result;
	check(what + " is answered", r == DONE && msg == "Inference completed", sprint("%d %s", r, msg));
}

chatting(b: ref Bridge)
{
	pieces := chan of string;
	joined := chan of string;
	spawn join(pieces, joined);
	(r, msg, text) := b.infer_stream("Once upon a time", pieces);
	s := <-joined;
	check("the pieces of a stream are its text", r == DONE && s == text, sprint("%s: %s, %s", msg, s, text));
	(r, msg, nil) = b.chat("Name a colour.");
	check("a chat is answered", r == DONE, msg);
	object := "{\"prompt\":\"Hello\",\"max_tokens\":8,\"temperature\":0,\"seed\":7,\"ignore_eos\":true}";
	a, again: ref Answer;
	(r, msg, a) = b.generate(object);
	check("GENERATE answers with statistics", r == DONE && a != nil && a.text != nil && a.completion_tokens == 8 && a.prompt_tokens > 0 &&
		a.finish_reason == "length" && a.completion_ms > 0.0, msg);
	spawn join(pieces, joined);
	(r, msg, again) = b.generate_stream("{\"stream\":true," + object[1:], pieces);
	s = <-joined;
	check("and streams the same text", r == DONE && a != nil && again != nil && s == a.text && again.text == a.text, msg);
	answered("a prompt that begins with blanks", b.infer("  indented"));
	(r, msg, nil) = b.generate("{\"prompt\":\"x\",\"colour\":1}");
	check("GENERATE names a field that it does not know", r == REFUSED && contains(msg, "colour"), msg);
	e: array of real;
	(r, msg, e) = b.embed("a text");
	square := 0.0;
	for(i := 0; i < len e; i++)
		square += e[i]*e[i];
	check("an embedding has length 1", r == DONE && square > 0.999 && square < 1.001, sprint("%s %g", msg, square));
	info: list of (string, string);
	(r, msg, info) = b.info();
	model := "";
	for(; info != nil; info = tl info)
		if((hd info).t0 == "model")
			model = (hd info).t1;
	check("info names the model", r == DONE && model != nil, msg);
}

join(pieces, joined: chan of string)
{
	s := "";
	while((p := <-pieces) != nil)
		s += p;
	joined <-= s;
}

# What llambofs serves at this place.
files(root, model: string)
{
	(number, err) := readall(root+"/new");
	check("reading new begins a conversation", len number > 1 && err == nil, err);
	if(len number < 2)
		return;
	conversation := root+"/"+number[0:len number-1];
	(status, why) := readall(root+"/status");
	check("status tells the version", contains(status, "version "), why);
	writeall(conversation+"/ctl", "set max_tokens 8");
	writeall(conversation+"/ctl", "set ignore_eos true");
	err = writeall(conversation+"/ask", "Name a colour.\n");
	answer: string;
	(answer, why) = readall(conversation+"/ask");
	if(model == nil)
		check("ask without a model is refused", err == nil && contains(why, "No model loaded"), answer+why);
	else{
		check("ask is answered", err == nil && len answer > 1, why);
		context: string;
		(context, why) = readall(conversation+"/context");
		check("context has what was said", contains(context, "\"Name a colour.\""), context+why);
	}
	err = writeall(root+"/ctl", "free");
	check("free is refused", contains(err, "permission denied"), err);
	writeall(conversation+"/ctl", "close");
	(nil, why) = readall(conversation+"/ask");
	check("a closed conversation is gone", contains(why, "does not exist"), why);
}

readall(path: string): (string, string)
{
	fd := sys->open(path, Sys->OREAD);
	if(fd == nil)
		return (nil, sprint("%r"));
	buf := array[64*1024] of byte;
	end := 0;
	while((n := sys->read(fd, buf[end:], len buf-end)) > 0)
		end += n;
	if(n < 0)
		return (string buf[0:end], sprint("%r"));
	return (string buf[0:end], nil);
}

writeall(path, text: string): string
{
	fd := sys->open(path, Sys->OWRITE);
	if(fd == nil || sys->fprint(fd, "%s", text) < 0)
		return sprint("%r");
	return nil;
}

cleanup(b: ref Bridge)
{
	(r, msg) := b.free_model();
	check("the model is freed", r == DONE && msg == "Resources freed", msg);
	(r, msg) = b.free_model();
	check("freeing nothing is no error", r == DONE && msg == "Resources freed", msg);
	b.disconnect();
	check("a disconnected Bridge says so", b.ping() == HUNGUP && contains(sprint("%r"), "not connected"), sprint("%r"));
	b.disconnect();
}

# Leaves the bridge as it was found.
restored(addr, model: string)
{
	b := Bridge.connect(addr);
	check("the bridge goes on after a disconnect", b != nil && b.ping() == DONE, sprint("%r"));
	if(b == nil)
		return;
	if(model != nil){
		(r, msg) := b.load_model(model);
		check("the model that was loaded before is loaded again", r == DONE, msg);
	}
	b.disconnect();
}

#
# text
#

contains(s, t: string): int
{
	for(i := 0; i+len t <= len s; i++)
		if(s[i:i+len t] == t)
			return 1;
	return 0;
}

ends(s, t: string): int
{
	return len s >= len t && s[len s-len t:] == t;
}
