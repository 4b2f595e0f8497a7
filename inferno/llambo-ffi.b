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

include "string.m";
	str: String;

include "lists.m";
	lists: Lists;

include "llambo-ffi.m";

SOCKETVAR: con "LLAMA_CPP_BRIDGE_SOCKET";	# the name that the bridge itself and llambo(1) use
Chunk: con 8192;		# room for each read; more than most replies
Patience: con 500;	# ms to wait for the last words of a command that ended
Idle: con 3000;		# ms without a request after which the connection is tested before the next
Watch: con 500;		# ms between looks whether the process that has the lock was killed
Errorlen: con 127;		# bytes that the system keeps of an error string

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
	str = load String String->PATH;
	if(str == nil)
		absent(String->PATH);
	lists = load Lists Lists->PATH;
	if(lists == nil)
		absent(Lists->PATH);
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
	b := ref Bridge(addr, MAXREPLY, nil, nil, nil, nil, nil, nil, chan[1] of int, 0, chan[1] of int, 0, 0, nil, 0, 0);
	err := attach(b);
	if(err != nil){
		sys->werrstr(brief(err));
		return nil;
	}
	return b;
}

# Opens the connection, or says why not.
attach(b: ref Bridge): string
{
	addr := b.addr;
	b.buf = nil;
	b.rp = b.wp = 0;
	b.used = sys->millisec();
	if(str->prefix("unix!", addr))
		return attachfile(b, "#U*", addr[len "unix!":]);
	if(str->prefix("exec!", addr))
		return attachcommand(b, addr[len "exec!":]);
	if(addr[0] == '#' || str->prefix("./", addr))
		return attachfile(b, "", addr);
	if(addr[0] == '/'){
		(there, nil) := sys->stat(addr);
		if(there >= 0)
			return attachfile(b, "", addr);
		(there, nil) = sys->stat("#U*"+addr);
		if(there < 0)
			return sys->sprint("%s: not in the name space; on the host: %r", addr);
		return attachfile(b, "#U*", addr);
	}
	if(str->in('!', addr))
		return attachnet(b);
	return sys->sprint("%q is no address: expected /path, ./path, #device/path, unix!/path, net!host!port or exec!command", addr);
}

attachfile(b: ref Bridge, device, path: string): string
{
	if(path == nil)
		return b.addr + ": the path of a socket must follow";
	if(device != nil && path[0] != '/')
		return sys->sprint("%s: the path on the host must begin with /", b.addr);
	(ok, dir) := sys->stat(device+path);
	if(ok < 0)
		return sys->sprint("%s: %r", path);
	if(dir.mode & Sys->DMDIR)
		return sys->sprint("%s: is a directory, not a socket", path);
	# A request written to a plain file would overwrite it.
	if(dir.length != big 0)
		return sys->sprint("%s: is a file, not a socket", path);
	fd := sys->open(device+path, Sys->ORDWR);
	if(fd == nil)
		return sys->sprint("%s: %r", path);
	if(plainfile(dir, fd))
		return sys->sprint("%s: is a file, not a socket", path);
	b.dfd = b.wfd = fd;
	return nil;
}

# Inferno does not say which files of the host are sockets.  But what is open of
# a socket is the connection, which has another number on the host than its file.
plainfile(dir: Sys->Dir, fd: ref Sys->FD): int
{
	(ok, opened) := sys->fstat(fd);
	return dir.dtype == 'U' && ok >= 0 && opened.qid.path == dir.qid.path;
}

attachnet(b: ref Bridge): string
{
	c := dialler->dial(b.addr, nil);
	if(c == nil)
		return sys->sprint("%s: %r", b.addr);
	b.dfd = b.wfd = c.dfd;
	b.cfd = c.cfd;
	b.stop = "hangup";
	return nil;
}

attachcommand(b: ref Bridge, command: string): string
{
	if(str->drop(command, " \t") == nil)
		return b.addr + ": a command must follow";
	dir := "/cmd/";
	cfd := sys->open(dir+"clone", Sys->ORDWR);
	if(cfd == nil){
		dir = "#C/cmd/";
		cfd = sys->open(dir+"clone", Sys->ORDWR);
	}
	if(cfd == nil)
		return sys->sprint("%sclone: %r", dir);
	name := array[32] of byte;
	n := sys->read(cfd, name, len name);
	if(n <= 0)
		return sys->sprint("%sclone: %r", dir);
	dir += string name[0:n];
	if(sys->fprint(cfd, "killonclose") < 0 || sys->fprint(cfd, "exec %s", command) < 0)
		return sys->sprint("%s: %r", command);
	wfd := sys->open(dir+"/data", Sys->OWRITE);
	dfd := sys->open(dir+"/data", Sys->OREAD);
	# Unless somebody opens it, the device never closes its end.
	stderr := sys->open(dir+"/stderr", Sys->OREAD);
	if(wfd == nil || dfd == nil || stderr == nil)
		return sys->sprint("%s/data: %r", dir);
	(b.dfd, b.wfd, b.cfd, b.stop) = (dfd, wfd, cfd, "kill");
	b.complaints = chan[1] of string;
	spawn listen(stderr, b.complaints);
	# A command that reaches no bridge started all the same: only an answer tells.
	err := answers(b);
	if(err != nil){
		err = lament(b, err);
		hangup(b);
	}
	return err;
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
	return !b.closed;
}

# Whatever process has the lock, killed or not: it finds the descriptors gone.
Bridge.disconnect(b: self ref Bridge)
{
	b.closed = 1;
	hangup(b);
}

hangup(b: ref Bridge)
{
	cfd := b.cfd;
	if(cfd != nil)
		sys->fprint(cfd, "%s", b.stop);
	b.dfd = b.wfd = b.cfd = nil;
}

#
# requests
#

Bridge.ping(b: self ref Bridge): int
{
	(ok, nil, nil) := transact(b, "PING", nil, nil);
	return ok;
}

Bridge.get_status(b: self ref Bridge): (int, string)
{
	(ok, msg, nil) := transact(b, "STATUS", nil, nil);
	return (ok, msg);
}

Bridge.info(b: self ref Bridge): (int, string, list of (string, string))
{
	(ok, msg, fields) := b.request("INFO");
	while(fields != nil && ((hd fields).t0 == "status" || (hd fields).t0 == "message"))
		fields = tl fields;
	return (ok, msg, fields);
}

Bridge.load_model(b: self ref Bridge, path: string): (int, string)
{
	(ok, msg, nil) := transact(b, "LOAD", path, nil);
	return (ok, msg);
}

Bridge.free_model(b: self ref Bridge): (int, string)
{
	(ok, msg, nil) := transact(b, "FREE", nil, nil);
	return (ok, msg);
}

# Texts are asked for piece by piece even if only the whole is wanted: a process
# that is killed while it waits leaves the connection at the next piece, and the
# bridge stops generating, instead of holding it to the end of the text.

Bridge.infer(b: self ref Bridge, prompt: string): (int, string, string)
{
	(ok, msg, reply) := transact(b, "STREAM", prompt, nil);
	return (ok, msg, member(reply, "data"));
}

Bridge.infer_stream(b: self ref Bridge, prompt: string, pieces: chan of string): (int, string, string)
{
	(ok, msg, reply) := transact(b, "STREAM", prompt, pieces);
	pieces <-= nil;
	return (ok, msg, member(reply, "data"));
}

Bridge.chat(b: self ref Bridge, message: string): (int, string, string)
{
	if(message == nil)
		return b.send_command("CHAT");	# for the bridge's own words
	return Chat.new(b, nil).ask(message);
}

Bridge.generate(b: self ref Bridge, object: string): (int, string, ref Answer)
{
	(ok, msg, reply) := transact(b, "GENERATE", streamed(object), nil);
	return (ok, msg, answer(ok, reply));
}

Bridge.generate_stream(b: self ref Bridge, object: string, pieces: chan of string): (int, string, ref Answer)
{
	(ok, msg, reply) := transact(b, "GENERATE", streamed(object), pieces);
	pieces <-= nil;
	return (ok, msg, answer(ok, reply));
}

Bridge.embed(b: self ref Bridge, text: string): (int, string, array of real)
{
	(ok, msg, reply) := transact(b, "EMBED", text, nil);
	if(ok != DONE)
		return (ok, msg, nil);
	return (ok, msg, reals(reply.get("embedding")));
}

Bridge.send_command(b: self ref Bridge, command: string): (int, string, string)
{
	(ok, msg, reply) := transact(b, command, nil, nil);
	return (ok, msg, member(reply, "data"));
}

Bridge.request(b: self ref Bridge, command: string): (int, string, list of (string, string))
{
	(ok, msg, reply) := transact(b, command, nil, nil);
	if(reply != nil) pick v := reply {
	Object =>
		return (ok, msg, members(v.mem));
	}
	return (ok, msg, nil);
}

members(l: list of (string, ref JValue)): list of (string, string)
{
	if(l == nil)
		return nil;
	(name, value) := hd l;
	return (name, plain(value)) :: members(tl l);
}

# The object, asking for a stream unless it says itself what it wants.
streamed(object: string): string
{
	(value, nil) := json->readjson(bufio->aopen(array of byte object));
	if(value != nil) pick v := value {
	Object =>
		if(v.get("stream") != nil)
			break;
		more := "";
		if(v.mem != nil)
			more = ",";
		(before, rest) := str->splitl(object, "{");
		return before + "{\"stream\":true" + more + rest[1:];
	}
	return object;
}

#
# conversations
#

Chat.new(b: ref Bridge, system: string): ref Chat
{
	return ref Chat(b, system, nil, nil, nil);
}

Chat.add(c: self ref Chat, role, text: string)
{
	c.turns = lists->append(c.turns, ref Turn(role, text));
}

Chat.ask(c: self ref Chat, text: string): (int, string, string)
{
	return converse(c, text, nil);
}

Chat.ask_stream(c: self ref Chat, text: string, pieces: chan of string): (int, string, string)
{
	result := converse(c, text, pieces);
	pieces <-= nil;
	return result;
}

# A question that is not answered leaves the conversation as it was.
converse(c: ref Chat, question: string, pieces: chan of string): (int, string, string)
{
	turns := lists->append(c.turns, ref Turn("user", question));
	opening := turns;
	if(c.system != nil)
		opening = ref Turn("system", c.system) :: turns;
	object := "{\"messages\":" + messages(opening) + ",\"stream\":true";
	for(fields := c.fields; fields != nil; fields = tl fields)
		object += "," + text((hd fields).t0).text() + ":" + (hd fields).t1;
	(ok, msg, reply) := transact(c.bridge, "GENERATE", object + "}", pieces);
	if(ok != DONE)
		return (ok, msg, nil);
	c.answer = answer(ok, reply);
	c.turns = lists->append(turns, ref Turn("assistant", c.answer.text));
	return (ok, msg, c.answer.text);
}

Chat.reset(c: self ref Chat)
{
	c.turns = nil;
	c.answer = nil;
}

Chat.messages(c: self ref Chat): string
{
	return messages(c.turns);
}

messages(turns: list of ref Turn): string
{
	s := "";
	for(; turns != nil; turns = tl turns){
		if(s != nil)
			s += ",";
		s += "{\"role\":" + text((hd turns).role).text() + ",\"content\":" + text((hd turns).text).text() + "}";
	}
	return "[" + s + "]";
}

#
# the connection
#

# One request and its replies.  Pieces of a stream go to pieces, unless that is nil.
transact(b: ref Bridge, verb, argument: string, pieces: chan of string): (int, string, ref JValue)
{
	hold(b);
	ok := HUNGUP;
	msg: string;
	reply: ref JValue;
	{
		(ok, msg, reply) = exchange(b, request(verb, argument), pieces);
	}exception e{
	"*" =>		# such as an exhausted heap: the lock must not stay taken
		(ok, msg, reply) = (HUNGUP, e, nil);
	}
	b.code = nil;
	if(ok == REFUSED)
		b.code = member(reply, "code");
	if(ok == HUNGUP){
		msg = lament(b, b.addr + ": " + msg);
		b.disconnect();
	}
	b.used = sys->millisec();
	free(b);
	if(ok != DONE)
		sys->werrstr(brief(msg));
	return (ok, msg, reply);
}

# Takes the lock, if need be from a process that was killed while it had it.
hold(b: ref Bridge)
{
	for(;;){
		late := chan[1] of int;
		alt{
		b.lock <-= 1 =>
			b.holder = sys->pctl(0, nil);
			return;
		* =>
			spawn timer(Watch, late);
		}
		alt{
		b.lock <-= 1 =>
			b.holder = sys->pctl(0, nil);
			return;
		<-late =>
			if(steal(b))
				return;
		}
	}
}

# Nobody knows how far the killed process came, so its connection goes with it.
steal(b: ref Bridge): int
{
	b.stealing <-= 1;
	dead := b.holder != 0 && killed(b.holder);
	if(dead){
		b.holder = sys->pctl(0, nil);
		hangup(b);
	}
	<-b.stealing;
	return dead;
}

free(b: ref Bridge)
{
	b.holder = 0;
	<-b.lock;
}

killed(pid: int): int
{
	(there, nil) := sys->stat(sys->sprint("#p/%d", pid));
	(known, nil) := sys->stat(sys->sprint("#p/%d", sys->pctl(0, nil)));
	return there < 0 && known >= 0;
}

exchange(b: ref Bridge, bytes: array of byte, pieces: chan of string): (int, string, ref JValue)
{
	if(b.closed)
		return (HUNGUP, "not connected", nil);
	err := begin(b, bytes);
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
			if(b.closed)
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

# Sends a request; over a new connection if the old one went while nothing was under way.
begin(b: ref Bridge, bytes: array of byte): string
{
	err: string;
	if(b.dfd != nil && sys->millisec()-b.used > Idle)
		err = answers(b);
	if(b.dfd != nil && err == nil && (err = send(b, bytes)) == nil)
		return nil;
	if(b.closed)
		return "disconnected";
	hangup(b);
	err = attach(b);
	if(err != nil)
		return "the bridge hung up; connecting again: " + err;
	if(b.closed)		# meanwhile, by another process
		return "disconnected";
	return send(b, bytes);
}

# Tests the connection; says what is wrong with it.
answers(b: ref Bridge): string
{
	err := send(b, request("PING", nil));
	if(err != nil)
		return err;
	(line, why) := getline(b);
	if(why != nil)
		return why;
	(reply, nil) := json->readjson(bufio->aopen(line));
	if(reply == nil || !reply.isobject())
		return "not a reply of llama-cpp-bridge: " + start(line);
	if(member(reply, "status") != "ok")
		return member(reply, "message");
	return nil;
}

# A request goes as a line if that says the same, otherwise as a netstring.
request(verb, argument: string): array of byte
{
	command := verb;
	if(argument != nil)
		command += " " + argument;
	bytes := array of byte command;
	(before, nil) := str->splitl(command, "\n\r\0");
	if(letter(verb) && before == command && (argument == nil || !str->in(argument[0], " \t")))
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
		if(b.closed)
			return (nil, "disconnected");
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

# A message, with the last words of a command that ended.
lament(b: ref Bridge, msg: string): string
{
	if(b.complaints == nil)
		return msg;
	complaints := b.complaints;
	b.complaints = nil;
	hangup(b);
	spawn timer(Patience, late := chan[1] of int);
	alt{
	s := <-complaints =>
		if(s != nil)
			msg += ": " + s;
	<-late =>
		;
	}
	return msg;
}

timer(ms: int, late: chan of int)
{
	sys->sleep(ms);
	late <-= 1;
}

#
# the pool
#

FREE, ASKED, READY, LENT: con iota;	# of a slot; ASKED: waits for an answer to PING

Fresh: con 1000;		# ms for which an answer to PING is good
Avoided: con 5000;	# ms for which an address without a bridge is passed over
Next: con 500;		# ms after which another bridge is asked as well

Pool.new(addrs: list of string): ref Pool
{
	if(addrs == nil){
		sys->werrstr("a pool needs an address");
		return nil;
	}
	p := ref Pool(1, array[len addrs] of ref Slot, chan[1] of int, nil, 0, 0);
	for(i := 0; addrs != nil; addrs = tl addrs)
		p.slots[i++] = ref Slot(hd addrs, nil, FREE, 0, 0, 0, 0, nil);
	return p;
}

# A bridge may take its time with an answer to PING, since it serves others too, and
# a stopped one never gives it.  So asking is the work of other processes, for all
# who wait: whichever bridge answers first goes to whoever looks first.
Pool.acquire(p: self ref Pool): ref Bridge
{
	before := array[len p.slots] of int;
	for(i := 0; i < len before; i++)
		before[i] = p.slots[i].failures;
	for(;;){
		change := chan[1] of int;
		late := chan[1] of int;
		p.turn <-= 1;
		(b, err) := choose(p, before);
		if(b == nil && err == nil)
			p.waiting = change :: p.waiting;
		<-p.turn;
		if(err != nil)
			sys->werrstr(brief(err));
		if(b != nil || err != nil)
			return b;
		spawn timer(Next, late);
		alt{
		<-change =>
			;
		<-late =>
			;
		}
	}
}

# A bridge that has just answered; or why there will be none; or neither, if that is
# to be seen.  The caller has the turn.
choose(p: ref Pool, before: array of int): (ref Bridge, string)
{
	if(p.closed)
		return (nil, "the pool is closed");
	now := sys->millisec();
	candidate, resort: ref Slot;
	hope := 0;
	reason: string;
	for(i := 0; i < len p.slots; i++){
		s := p.slots[i];
		if(s.state == READY && now-s.since < Fresh && s.bridge.connected())
			return (lend(p, s), nil);
		if(s.state == READY)
			become(s, FREE);
		if(s.state != FREE)
			hope = 1;
		else if(!s.failed || now-s.since >= Avoided)
			candidate = earlier(candidate, s);
		else if(s.failures == before[i])
			resort = earlier(resort, s);
		else
			reason = s.reason;
	}
	if(candidate == nil && !hope)
		candidate = resort;
	if(candidate == nil && !hope)
		return (nil, reason);
	if(candidate != nil){
		candidate.turn = ++p.lendings;
		become(candidate, ASKED);
		spawn ask(p, candidate);
	}
	return (nil, nil);
}

earlier(a, b: ref Slot): ref Slot
{
	if(a == nil || b.turn < a.turn)
		return b;
	return a;
}

become(s: ref Slot, state: int)
{
	s.state = state;
	s.since = sys->millisec();
}

lend(p: ref Pool, s: ref Slot): ref Bridge
{
	become(s, LENT);
	if(p.waiting == nil && !p.keep)
		rest(p);
	return s.bridge;
}

# Closes the connections that are not lent.
rest(p: ref Pool)
{
	for(i := 0; i < len p.slots; i++){
		s := p.slots[i];
		if((s.state == FREE || s.state == READY) && s.bridge != nil){
			s.bridge.disconnect();
			s.bridge = nil;
			become(s, FREE);
		}
	}
}

# Asks the bridge of a slot for an answer, over a new connection if need be.
# A process of no one's group: it must come to its end.
ask(p: ref Pool, s: ref Slot)
{
	sys->pctl(Sys->NEWPGRP, nil);
	b := s.bridge;
	if(b == nil || b.ping() != DONE){
		b = Bridge.connect(s.addr);
		if(b != nil && b.ping() != DONE)
			b = nil;
	}
	reason := sys->sprint("%r");
	p.turn <-= 1;
	s.bridge = b;
	become(s, READY);
	s.failed = b == nil;
	if(s.failed){
		become(s, FREE);
		s.failures++;
		s.reason = reason;
	}
	if(p.closed || p.waiting == nil && !p.keep)
		rest(p);
	changed(p);
	<-p.turn;
}

# Wakes whoever waits.  The caller has the turn.
changed(p: ref Pool)
{
	for(; p.waiting != nil; p.waiting = tl p.waiting)
		(hd p.waiting) <-= 1;
}

Pool.release(p: self ref Pool, b: ref Bridge): int
{
	p.turn <-= 1;
	for(i := 0; i < len p.slots; i++)
		if(b != nil && p.slots[i].bridge == b && p.slots[i].state == LENT)
			break;
	ok := i < len p.slots;
	if(ok){
		become(p.slots[i], FREE);
		if(!b.connected())
			p.slots[i].bridge = nil;
		if(p.closed || !p.keep)
			rest(p);
		changed(p);
	}
	<-p.turn;
	if(ok)
		return 0;
	sys->werrstr("not a bridge that this pool has lent");
	return -1;
}

Pool.close(p: self ref Pool)
{
	p.turn <-= 1;
	p.closed = 1;
	rest(p);
	changed(p);
	<-p.turn;
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

text(s: string): ref JValue
{
	return json->jvstring(s);
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

# What a request may begin with that is not a netstring.
letter(s: string): int
{
	return s != nil && str->in(s[0], "a-zA-Z");
}

# An error string keeps its beginning and its end, between which stand long paths.
brief(s: string): string
{
	t := s;
	n := Errorlen/2;
	if(n > len s/2)
		n = len s/2;
	for(; len array of byte t > Errorlen; n--)
		t = s[0:n] + "..." + s[len s-n:];
	return t;
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
