implement LlamboFFI;

#
# Client of llama-cpp-bridge: llambo-ffi(2) says what it does,
# llama-cpp-bridge(7) of the host what goes over the connection.
#

include "sys.m";
	sys: Sys;

include "draw.m";

include "bufio.m";
	bufio: Bufio;

include "json.m";
	json: JSON;
	JValue: import json;

include "dial.m";
	dialler: Dial;

include "env.m";
	env: Env;

include "llambo-ffi.m";

SOCKETVAR: con "LLAMA_CPP_BRIDGE_SOCKET";	# the name that the bridge itself and llambo(1) use
Chunk: con 8192;		# room for each read; more than most replies
Patience: con 500;	# ms to wait for the last words of a command that ended

init(nil: ref Draw->Context, nil: list of string)
{
	sys = load Sys Sys->PATH;
	bufio = load Bufio Bufio->PATH;
	if(bufio == nil)
		absent(Bufio->PATH);
	json = load JSON JSON->PATH;
	if(json == nil)
		absent(JSON->PATH);
	json->init(bufio);
	dialler = load Dial Dial->PATH;
	if(dialler == nil)
		absent(Dial->PATH);
	env = load Env Env->PATH;
	if(env == nil)
		absent(Env->PATH);
}

absent(path: string)
{
	raise sys->sprint("fail:llambo-ffi: cannot load %s: %r", path);
}

#
# addresses
#

Bridge.connect(addr: string): ref Bridge
{
	if(addr == nil)
		addr = env->getenv(SOCKETVAR);
	if(addr == nil)
		addr = SOCKET;
	b := ref Bridge(addr, MAXREPLY, nil, nil, nil, nil, nil, chan[1] of int, 0, nil, 0, 0);
	err := attach(b, addr);
	if(err != nil){
		sys->werrstr(err);
		return nil;
	}
	return b;
}

# Opens the connection, or says why not.
attach(b: ref Bridge, addr: string): string
{
	if(after(addr, "unix!") != nil)
		return attachfile(b, "#U*", after(addr, "unix!"));
	if(after(addr, "exec!") != nil)
		return attachcommand(b, after(addr, "exec!"));
	if(addr[0] == '#' || after(addr, "./") != nil)
		return attachfile(b, "", addr);
	if(addr[0] == '/'){
		(there, nil) := sys->stat(addr);
		if(there >= 0)
			return attachfile(b, "", addr);
		return attachfile(b, "#U*", addr);
	}
	if(contains(addr, '!'))
		return attachnet(b, addr);
	return sys->sprint("%q is no address: expected /path, unix!/path, net!host!port or exec!command", addr);
}

attachfile(b: ref Bridge, device, path: string): string
{
	if(device != nil && path[0] != '/')
		return sys->sprint("%s: the path on the host must begin with /", b.addr);
	# A request written to a plain file would overwrite it.  Inferno does not
	# say what is a socket, but a socket has no length.
	(ok, dir) := sys->stat(device+path);
	if(ok < 0)
		return sys->sprint("%s: %r", path);
	if(dir.mode & Sys->DMDIR)
		return sys->sprint("%s: is a directory, not a socket", path);
	if(dir.length != big 0)
		return sys->sprint("%s: is a file, not a socket", path);
	b.dfd = b.wfd = sys->open(device+path, Sys->ORDWR);
	if(b.dfd == nil)
		return sys->sprint("%s: %r", path);
	return nil;
}

attachnet(b: ref Bridge, addr: string): string
{
	c := dialler->dial(addr, nil);
	if(c == nil)
		return sys->sprint("%s: %r", addr);
	b.dfd = b.wfd = c.dfd;
	b.cfd = c.cfd;
	b.stop = "hangup";
	return nil;
}

attachcommand(b: ref Bridge, command: string): string
{
	dir := "/cmd/";
	b.cfd = sys->open(dir+"clone", Sys->ORDWR);
	if(b.cfd == nil){
		dir = "#C/cmd/";
		b.cfd = sys->open(dir+"clone", Sys->ORDWR);
	}
	if(b.cfd == nil)
		return sys->sprint("%sclone: %r", dir);
	name := array[32] of byte;
	n := sys->read(b.cfd, name, len name);
	if(n <= 0)
		return sys->sprint("%sclone: %r", dir);
	dir += string name[0:n];
	b.stop = "kill";
	if(sys->fprint(b.cfd, "killonclose") < 0 || sys->fprint(b.cfd, "exec %s", command) < 0)
		return sys->sprint("%s: %r", command);
	b.wfd = sys->open(dir+"/data", Sys->OWRITE);
	b.dfd = sys->open(dir+"/data", Sys->OREAD);
	# Unless somebody opens it, the device never closes its end.
	stderr := sys->open(dir+"/stderr", Sys->OREAD);
	if(b.wfd == nil || b.dfd == nil || stderr == nil)
		return sys->sprint("%s/data: %r", dir);
	b.complaints = chan[1] of string;
	spawn listen(stderr, b.complaints);
	# A command that reaches no bridge started all the same: only an answer tells.
	(ok, msg, nil) := transact(b, "PING", nil);
	if(ok == DONE)
		return nil;
	b.disconnect();
	return msg;
}

# Keeps the last line of what a command complains of.
listen(fd: ref Sys->FD, complaints: chan of string)
{
	buf := array[Chunk] of byte;
	last := "";
	while((n := sys->read(fd, buf, len buf)) > 0){
		(nil, lines) := sys->tokenize(string buf[0:n], "\r\n");
		for(; lines != nil; lines = tl lines)
			last = hd lines;
	}
	complaints <-= last;
}

Bridge.connected(b: self ref Bridge): int
{
	return b.dfd != nil && !b.closing;
}

Bridge.disconnect(b: self ref Bridge)
{
	b.closing = 1;
	cfd := b.cfd;
	if(cfd != nil)
		sys->fprint(cfd, "%s", b.stop);
	tidy(b);
}

# Closes a Bridge that is to be closed, unless a request is under way:
# then the process that made it does so at its end.
tidy(b: ref Bridge)
{
	if(b.closing) alt{
	b.lock <-= 1 =>
		shut(b);
		<-b.lock;
	* =>
		;
	}
}

# The caller holds the lock.
shut(b: ref Bridge)
{
	b.closing = 1;
	b.dfd = b.wfd = b.cfd = nil;
	b.buf = nil;
	b.rp = b.wp = 0;
}

#
# requests
#

Bridge.ping(b: self ref Bridge): int
{
	(ok, nil, nil) := transact(b, "PING", nil);
	return ok;
}

Bridge.get_status(b: self ref Bridge): (int, string)
{
	(ok, msg, nil) := transact(b, "STATUS", nil);
	return (ok, msg);
}

Bridge.info(b: self ref Bridge): (int, string, list of (string, string))
{
	(ok, msg, fields) := b.request("INFO");
	rest: list of (string, string);
	for(; fields != nil; fields = tl fields)
		if((hd fields).t0 != "status" && (hd fields).t0 != "message")
			rest = hd fields :: rest;
	return (ok, msg, reverse(rest));
}

Bridge.load_model(b: self ref Bridge, path: string): (int, string)
{
	if(blank(path))
		return (REFUSED, "the path begins with a blank: no request can carry it");
	(ok, msg, nil) := transact(b, join("LOAD", path), nil);
	return (ok, msg);
}

Bridge.free_model(b: self ref Bridge): (int, string)
{
	(ok, msg, nil) := transact(b, "FREE", nil);
	return (ok, msg);
}

# Blanks between verb and argument belong to neither, so a text
# that begins with one goes inside the object of GENERATE.

Bridge.infer(b: self ref Bridge, prompt: string): (int, string, string)
{
	command := join("INFER", prompt);
	if(blank(prompt))
		command = "GENERATE " + object(("prompt", text(prompt)) :: nil);
	return b.send_command(command);
}

Bridge.infer_stream(b: self ref Bridge, prompt: string, pieces: chan of string): (int, string, string)
{
	command := join("STREAM", prompt);
	if(blank(prompt))
		command = "GENERATE " + object(("prompt", text(prompt)) :: ("stream", truth()) :: nil);
	(ok, msg, reply) := transact(b, command, pieces);
	pieces <-= nil;
	return (ok, msg, member(reply, "data"));
}

Bridge.chat(b: self ref Bridge, message: string): (int, string, string)
{
	command := join("CHAT", message);
	if(blank(message)){
		turns := array[1] of ref JValue;
		turns[0] = json->jvobject(("role", text("user")) :: ("content", text(message)) :: nil);
		command = "GENERATE " + object(("messages", json->jvarray(turns)) :: nil);
	}
	return b.send_command(command);
}

Bridge.generate(b: self ref Bridge, object: string): (int, string, ref Answer)
{
	(ok, msg, reply) := transact(b, join("GENERATE", object), nil);
	return (ok, msg, answer(ok, reply));
}

Bridge.generate_stream(b: self ref Bridge, object: string, pieces: chan of string): (int, string, ref Answer)
{
	(ok, msg, reply) := transact(b, join("GENERATE", object), pieces);
	pieces <-= nil;
	return (ok, msg, answer(ok, reply));
}

Bridge.embed(b: self ref Bridge, text: string): (int, string, array of real)
{
	if(blank(text))
		return (REFUSED, "the text begins with a blank: no request can carry it", nil);
	(ok, msg, reply) := transact(b, join("EMBED", text), nil);
	if(ok != DONE)
		return (ok, msg, nil);
	return (ok, msg, reals(reply.get("embedding")));
}

Bridge.send_command(b: self ref Bridge, command: string): (int, string, string)
{
	(ok, msg, reply) := transact(b, command, nil);
	return (ok, msg, member(reply, "data"));
}

Bridge.request(b: self ref Bridge, command: string): (int, string, list of (string, string))
{
	(ok, msg, reply) := transact(b, command, nil);
	fields: list of (string, string);
	if(reply != nil) pick v := reply {
	Object =>
		for(l := v.mem; l != nil; l = tl l)
			fields = ((hd l).t0, plain((hd l).t1)) :: fields;
	}
	return (ok, msg, reverse(fields));
}

#
# the connection
#

# One request and its replies.  Pieces of a stream go to pieces, unless that is nil.
transact(b: ref Bridge, command: string, pieces: chan of string): (int, string, ref JValue)
{
	b.lock <-= 1;
	ok := HUNGUP;
	msg: string;
	reply: ref JValue;
	{
		(ok, msg, reply) = exchange(b, command, pieces);
	}exception e{
	"*" =>		# such as an exhausted heap: the lock must not stay taken
		(ok, msg, reply) = (HUNGUP, e, nil);
	}
	if(ok == HUNGUP){
		msg = b.addr + ": " + msg;
		complaint := lastwords(b);
		if(complaint != nil)
			msg += ": " + complaint;
		shut(b);
	}
	<-b.lock;
	tidy(b);		# if disconnect came meanwhile
	if(ok != DONE)
		sys->werrstr(msg);
	return (ok, msg, reply);
}

exchange(b: ref Bridge, command: string, pieces: chan of string): (int, string, ref JValue)
{
	if(!b.connected())
		return (HUNGUP, "not connected", nil);
	err := send(b, frame(command));
	if(err != nil)
		return (HUNGUP, err, nil);
	sent := 0;
	for(;;){
		(line, why) := getline(b);
		if(why != nil)
			return (HUNGUP, why, nil);
		(reply, nil) := json->readjson(bufio->aopen(line));
		if(reply == nil || !reply.isobject())
			return (HUNGUP, "not a reply of llama-cpp-bridge: " + start(line), nil);
		msg := member(reply, "message");
		data := member(reply, "data");
		case member(reply, "status") {
		"partial" =>
			if(pieces != nil && data != nil){
				pieces <-= data;
				sent = 1;
			}
			if(b.closing)
				return (HUNGUP, "disconnected", nil);
		"ok" =>
			if(pieces != nil && data != nil && !sent)
				pieces <-= data;
			return (DONE, msg, reply);
		"error" =>
			return (REFUSED, msg, reply);
		* =>
			return (HUNGUP, "not a reply of llama-cpp-bridge: " + start(line), nil);
		}
	}
}

# A request goes as a line if that says the same, otherwise as a netstring.
frame(command: string): array of byte
{
	bytes := array of byte command;
	if(len command > 0 && letter(command[0]) && !contains(command, '\n') && !contains(command, '\r') && !contains(command, 0))
		return concat(nil, bytes, "\n");
	return concat(array of byte sys->sprint("%d:", len bytes), bytes, ",");
}

send(b: ref Bridge, bytes: array of byte): string
{
	while(len bytes > 0){
		n := sys->write(b.wfd, bytes, len bytes);
		if(n <= 0)
			return sys->sprint("the bridge hung up: cannot write: %r");
		bytes = bytes[n:];
	}
	return nil;
}

# The next line without its end, good until the next call; or why there is none.
getline(b: ref Bridge): (array of byte, string)
{
	seen := b.rp;
	for(;;){
		for(; seen < b.wp && b.buf[seen] != byte '\n'; seen++)
			;
		if(seen-b.rp > b.maxreply)
			return (nil, sys->sprint("reply longer than %d bytes", b.maxreply));
		if(seen < b.wp){
			line := b.buf[b.rp:seen];
			b.rp = seen+1;
			return (line, nil);
		}
		seen -= b.rp;
		makeroom(b);
		n := sys->read(b.dfd, b.buf[b.wp:], len b.buf-b.wp);
		if(n < 0)
			return (nil, sys->sprint("cannot read: %r"));
		if(n == 0 && b.wp > 0)
			return (nil, "the bridge hung up in the middle of a reply");
		if(n == 0)
			return (nil, "the bridge hung up");
		b.wp += n;
	}
}

# Moves what is not yet used to the start of the buffer, in a larger one if needed.
makeroom(b: ref Bridge)
{
	rest := b.buf[b.rp:b.wp];
	size := len b.buf;
	if(len rest+Chunk > size)
		size = 2*len rest+Chunk;
	a := array[size] of byte;
	a[0:] = rest;
	b.buf = a;
	b.wp = len rest;
	b.rp = 0;
}

lastwords(b: ref Bridge): string
{
	if(b.complaints == nil)
		return nil;
	complaints := b.complaints;
	b.complaints = nil;
	if(b.cfd != nil)
		sys->fprint(b.cfd, "%s", b.stop);
	spawn timer(late := chan[1] of int);
	alt{
	s := <-complaints =>
		return s;
	<-late =>
		return nil;
	}
}

timer(late: chan of int)
{
	sys->sleep(Patience);
	late <-= 1;
}

#
# the pool
#

Pool.new(addrs: list of string): ref Pool
{
	n := len addrs;
	if(n == 0){
		sys->werrstr("a pool needs an address");
		return nil;
	}
	p := ref Pool(array[n] of string, array[n] of ref Bridge, array[n] of {* => 0},
		chan[n] of int, chan[1] of int, 0);
	for(i := 0; i < n; i++){
		p.addrs[i] = hd addrs;
		addrs = tl addrs;
		p.idle <-= i;
	}
	return p;
}

# One process chooses at a time, so that what it has not in hand is lent.
# The addresses that cannot be reached it keeps in hand until it is served.
Pool.acquire(p: self ref Pool): ref Bridge
{
	p.turn <-= 1;
	unreachable: list of int;
	b: ref Bridge;
	while(b == nil && !p.closed && len unreachable < len p.addrs){
		i := <-p.idle;
		if(!p.closed)
			b = ready(p, i);
		if(b == nil)
			unreachable = i :: unreachable;
	}
	err := sys->sprint("%r");
	if(b == nil && p.closed)
		err = "the pool is closed";
	for(; unreachable != nil; unreachable = tl unreachable)
		p.idle <-= hd unreachable;
	<-p.turn;
	if(b == nil)
		sys->werrstr(err);
	return b;
}

# Bridge i if it answers, else a new connection in its place.
ready(p: ref Pool, i: int): ref Bridge
{
	b := p.bridges[i];
	if(b == nil || b.ping() != DONE)
		b = Bridge.connect(p.addrs[i]);
	p.bridges[i] = b;
	p.lent[i] = b != nil;
	return b;
}

Pool.release(p: self ref Pool, b: ref Bridge): int
{
	for(i := 0; i < len p.bridges; i++)
		if(b != nil && p.bridges[i] == b && p.lent[i]){
			p.lent[i] = 0;
			if(p.closed)
				b.disconnect();
			if(!b.connected())
				p.bridges[i] = nil;
			p.idle <-= i;
			return 0;
		}
	sys->werrstr("not a bridge that this pool has lent");
	return -1;
}

Pool.close(p: self ref Pool)
{
	p.closed = 1;
	for(i := 0; i < len p.bridges; i++)
		if(p.bridges[i] != nil && !p.lent[i]){
			p.bridges[i].disconnect();
			p.bridges[i] = nil;
		}
}

#
# text and JSON
#

answer(ok: int, reply: ref JValue): ref Answer
{
	if(ok != DONE)
		return nil;
	return ref Answer(
		member(reply, "data"),
		member(reply, "finish_reason"),
		int integer(reply.get("prompt_tokens")),
		int integer(reply.get("cached_tokens")),
		int integer(reply.get("completion_tokens")),
		number(reply.get("prompt_ms")),
		number(reply.get("completion_ms")),
		integer(reply.get("seed")));
}

object(members: list of (string, ref JValue)): string
{
	return json->jvobject(members).text();
}

text(s: string): ref JValue
{
	return json->jvstring(s);
}

truth(): ref JValue
{
	return json->jvtrue();
}

# A member that is a string; nil where there is none.
member(reply: ref JValue, name: string): string
{
	if(reply == nil || (value := reply.get(name)) == nil)
		return nil;
	pick v := value {
	String =>
		return pairs(v.s);
	}
	return nil;
}

# Not by way of real: conversion from there goes wrong beyond 31 bits.
integer(value: ref JValue): big
{
	if(value == nil)
		return big 0;
	pick v := value {
	Int =>
		return v.value;
	}
	return big 0;
}

number(value: ref JValue): real
{
	if(value == nil)
		return 0.0;
	pick v := value {
	Int =>
		return real v.value;
	Real =>
		return v.value;
	}
	return 0.0;
}

# The numbers of an array; nil if it is none.
reals(value: ref JValue): array of real
{
	if(value == nil)
		return nil;
	pick v := value {
	Array =>
		a := array[len v.a] of real;
		for(i := 0; i < len a; i++)
			a[i] = number(v.a[i]);
		return a;
	}
	return nil;
}

# A value as text: a string as it is, anything else as JSON.
plain(value: ref JValue): string
{
	if(value == nil)
		return "null";
	pick v := value {
	String =>
		return pairs(v.s);
	}
	return value.text();
}

# Joins surrogate pairs, which the JSON module leaves apart; a lone one becomes U+FFFD.
pairs(s: string): string
{
	for(i := 0; i < len s && (s[i] < 16rD800 || s[i] > 16rDFFF); i++)
		;
	if(i == len s)
		return s;
	t := s[0:i];
	for(; i < len s; i++){
		c := s[i];
		if(c >= 16rD800 && c <= 16rDBFF && i+1 < len s && s[i+1] >= 16rDC00 && s[i+1] <= 16rDFFF)
			c = 16r10000 + ((c-16rD800)<<10) + (s[++i]-16rDC00);
		else if(c >= 16rD800 && c <= 16rDFFF)
			c = 16rFFFD;
		t[len t] = c;
	}
	return t;
}

# The first bytes of a line, for a message.
start(line: array of byte): string
{
	if(len line > 64)
		return "'" + string line[0:64] + "...'";
	return "'" + string line + "'";
}

join(verb, argument: string): string
{
	if(argument == nil)
		return verb;
	return verb + " " + argument;
}

blank(s: string): int
{
	return len s > 0 && (s[0] == ' ' || s[0] == '\t');
}

letter(c: int): int
{
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z';
}

contains(s: string, c: int): int
{
	for(i := 0; i < len s; i++)
		if(s[i] == c)
			return 1;
	return 0;
}

# What stands after the prefix; nil if s does not begin with it or ends there.
after(s, prefix: string): string
{
	if(len s > len prefix && s[0:len prefix] == prefix)
		return s[len prefix:];
	return nil;
}

concat(a, b: array of byte, end: string): array of byte
{
	c := array of byte end;
	all := array[len a+len b+len c] of byte;
	all[0:] = a;
	all[len a:] = b;
	all[len a+len b:] = c;
	return all;
}

reverse(l: list of (string, string)): list of (string, string)
{
	r: list of (string, string);
	for(; l != nil; l = tl l)
		r = hd l :: r;
	return r;
}
