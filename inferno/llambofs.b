implement Llambofs;

#
# A language model as files: llambofs(4).
#
# One process, serve, owns all that is here and answers the clients; it never waits.
# What takes time is a Job, done by a process of its own, which tells serve in Events
# how it goes.  A job that nobody wants any more is forgotten at once; its process
# finds that out at its next step, and its connection is closed.
#

include "sys.m";
	sys: Sys;
	sprint: import sys;

include "draw.m";

include "arg.m";

include "styx.m";
	styx: Styx;
	Tmsg, Rmsg: import styx;

include "styxservers.m";
	styxservers: Styxservers;
	Styxserver, Navigator, Fid: import styxservers;
	nametree: Nametree;
	Tree: import nametree;

include "string.m";
	str: String;

include "lists.m";
	lists: Lists;

include "bufio.m";
	bufio: Bufio;
	Iobuf: import bufio;

include "json.m";
	json: JSON;
	JValue: import json;

include "llambo-ffi.m";
	ffi: LlamboFFI;
	Bridge, Chat, Turn, Pool, Answer: import ffi;

Llambofs: module
{
	init:	fn(ctx: ref Draw->Context, args: list of string);
};

# Files: the low byte of a path; above it stands the conversation.
Qroot, Qnew, Qstatus, Qrootctl, Qembed, Qdir,
Qask, Qstream, Qprompt, Qsystem, Qtemperature, Qmodel, Qprefill, Qctl, Qcontext, Qusage: con iota;

File: adt {
	name:	string;
	kind:	int;
	mode:	int;
};

topfiles := array[] of {
	File("new", Qnew, 8r444),
	File("status", Qstatus, 8r444),
	File("ctl", Qrootctl, 8r222),
	File("embed", Qembed, 8r666),
};

files := array[] of {
	File("ask", Qask, 8r600),
	File("stream", Qstream, 8r400),
	File("prompt", Qprompt, 8r600),
	File("system", Qsystem, 8r600),
	File("temperature", Qtemperature, 8r600),
	File("model", Qmodel, 8r600),
	File("prefill", Qprefill, 8r600),
	File("ctl", Qctl, 8r200),
	File("context", Qcontext, 8r400),
	File("usage", Qusage, 8r400),
};

Conversation: adt {
	id:	int;
	chat:	ref Chat;
	prefill:	string;
	writer:	cyclic ref Open;		# who has written a part of a message; nil if nobody
	job:	cyclic ref Job;		# the text that is being generated; nil if none
	asked:	cyclic ref Job;		# the last of ask, under way or not
	prompted:	cyclic ref Job;		# the last of prompt
	last:	cyclic ref Job;		# the later of these two
	tokens:	int;		# of the last prompt and its text
};

# An open file.
Open: adt {
	fid:	int;
	user:	string;
	kind:	int;
	c:	cyclic ref Conversation;		# nil for files of the root
	written:	list of array of byte;	# what was written and not yet used, the last first
	size:	int;		# bytes of these
	short:	int;		# whether the last of these is less than a message of Styx holds
	job:	cyclic ref Job;		# whose text is read; nil if none yet
	base:	big;		# offset at which that text begins
	over:	int;		# whether it was read to its end
	body:	array of byte;		# what else is read
};

# What a process does for serve.
Job: adt {
	kind:	int;		# of the file that it is for
	c:	cyclic ref Conversation;
	text:	string;		# the request, in part
	chat:	ref Chat;		# a copy of the conversation's, which the job may change
	bridge:	ref Bridge;		# while the process has one
	unwanted:	int;		# the process should end
	done:	int;
	err:	string;		# why it failed; nil if it did not
	data:	array of byte;		# data[0:n] is the text so far
	n:	int;
	newline:	int;		# whether data[n] is one, for those who read ask
	readers:	list of ref Fidnum;		# those who have read some of it
	tags:	list of ref Tmsg;		# what waits for its end
};

Fidnum: adt {
	fid:	int;
	eq:	fn(a, b: ref Fidnum): int;
};

Event: adt {
	job:	ref Job;
	pick {
	Piece =>
		text:	string;
	Info =>
		fields:	list of (string, string);
	Ended =>
		err:	string;
		data:	string;
		answer:	ref Answer;
	Late =>
	}
};

Patience: con 1000;	# ms to wait for INFO while there is an older one to show
Iounit: con 65536;	# bytes of a message of Styx, at most

Eclosed: con "the conversation is closed";
Estopped: con "stopped";
Ebusy: con "a text is being generated: write stop to ctl to end it";
Ewriting: con "another message is being written";

stderr: ref Sys->FD;
user: string;
writable := 0;		# whether models may be loaded and freed
maxconversations := 32;
maxbytes := 1024*1024;	# of a conversation, and of an answer

srv: ref Styxserver;
tree: ref Tree;
pool: ref Pool;
events: chan of ref Event;
conversations: list of ref Conversation;
opens: list of ref Open;
waiting: list of (ref Tmsg.Read, ref Open);	# reads of texts that are being generated
nextid := 0;
info: list of (string, string);		# what INFO said when it was last asked; nil if never
asking: ref Job;		# asks for INFO; nil if nobody does

init(nil: ref Draw->Context, args: list of string)
{
	sys = load Sys Sys->PATH;
	sys->pctl(Sys->FORKFD|Sys->NEWPGRP, nil);
	stderr = sys->fildes(2);
	loadmodules();
	mountpoint := "/mnt/llm";
	stdin := 0;
	arg := load Arg Arg->PATH;
	if(arg == nil)
		absent(Arg->PATH);
	arg->init(args);
	arg->setusage("llambofs [-Dsw] [-m mountpoint] [-n conversations] [-b bytes] [address ...]");
	while((o := arg->opt()) != 0)
		case o {
		'D' =>	styxservers->traceset(1);
		's' =>	stdin = 1;
		'w' =>	writable = 1;
		'm' =>	mountpoint = arg->earg();
		'n' =>	maxconversations = positive(arg->earg());
		'b' =>	maxbytes = positive(arg->earg());
		* =>	arg->usage();
		}
	addresses := arg->argv();
	if(addresses == nil)
		addresses = "" :: nil;
	pool = Pool.new(addresses);
	pool.keep = 0;		# the bridges serve others too
	user = readfile("/dev/user");
	if(user == nil)
		user = "inferno";
	events = chan of ref Event;

	navops: chan of ref Styxservers->Navop;
	(tree, navops) = nametree->start();
	tree.create(big Qroot, dir("/", big Qroot, 8r555, user));
	for(i := len topfiles-1; i >= 0; i--)
		tree.create(big Qroot, dir(topfiles[i].name, big topfiles[i].kind, topfiles[i].mode, user));
	if(stdin){
		serve(sys->fildes(0), Navigator.new(navops), nil);
		return;
	}
	fds := array[2] of ref Sys->FD;
	if(sys->pipe(fds) < 0)
		fatal(sprint("cannot make a pipe: %r"));
	makedir(mountpoint);
	started := chan of int;
	spawn serve(fds[0], Navigator.new(navops), started);
	<-started;
	fds[0] = nil;
	if(sys->mount(fds[1], nil, mountpoint, Sys->MREPL, nil) < 0)
		fatal(sprint("cannot mount on %s: %r", mountpoint));
}

loadmodules()
{
	styx = load Styx Styx->PATH;
	if(styx == nil)
		absent(Styx->PATH);
	styx->init();
	styxservers = load Styxservers Styxservers->PATH;
	if(styxservers == nil)
		absent(Styxservers->PATH);
	styxservers->init(styx);
	nametree = load Nametree Nametree->PATH;
	if(nametree == nil)
		absent(Nametree->PATH);
	nametree->init();
	str = load String String->PATH;
	if(str == nil)
		absent(String->PATH);
	lists = load Lists Lists->PATH;
	if(lists == nil)
		absent(Lists->PATH);
	bufio = load Bufio Bufio->PATH;
	if(bufio == nil)
		absent(Bufio->PATH);
	json = load JSON JSON->PATH;
	if(json == nil)
		absent(JSON->PATH);
	json->init(bufio);
	ffi = load LlamboFFI LlamboFFI->PATH;
	if(ffi == nil)
		absent(LlamboFFI->PATH);
	ffi->init(nil, nil);
}

absent(path: string)
{
	fatal(sprint("cannot load %s: %r", path));
}

fatal(why: string)
{
	sys->fprint(stderr, "llambofs: %s\n", why);
	raise "fail:error";
}

positive(s: string): int
{
	(n, rest) := str->toint(s, 10);
	if(n <= 0 || rest != nil)
		fatal(sprint("%q is not a number above 0", s));
	return n;
}

makedir(path: string)
{
	(ok, nil) := sys->stat(path);
	if(ok >= 0)
		return;
	(parent, nil) := str->splitr(path, "/");
	if(len parent > 1)
		makedir(parent[0:len parent-1]);
	if(sys->create(path, Sys->OREAD, Sys->DMDIR|8r755) == nil)
		fatal(sprint("cannot make the directory %s: %r", path));
}

readfile(path: string): string
{
	fd := sys->open(path, Sys->OREAD);
	if(fd == nil)
		return nil;
	buf := array[Sys->NAMEMAX] of byte;
	n := sys->read(fd, buf, len buf);
	if(n <= 0)
		return nil;
	return string buf[0:n];
}

dir(name: string, path: big, mode: int, owner: string): Sys->Dir
{
	d := sys->zerodir;
	d.name = name;
	d.uid = d.gid = owner;
	d.qid.path = path;
	if(int path == Qroot || (int path & 16rFF) == Qdir){
		d.qid.qtype = Sys->QTDIR;
		mode |= Sys->DMDIR;
	}
	d.mode = mode;
	return d;
}

#
# the server
#

serve(fd: ref Sys->FD, navigator: ref Navigator, started: chan of int)
{
	tmsgs: chan of ref Tmsg;
	if(started != nil)
		sys->pctl(Sys->FORKNS|Sys->NEWFD, 1 :: 2 :: fd.fd :: nil);
	(tmsgs, srv) = Styxserver.new(sys->fildes(fd.fd), navigator, big Qroot);
	fd = nil;
	srv.msize = Iounit+Styx->IOHDRSZ;
	if(started != nil)
		started <-= 1;
	for(;;) alt{
	t := <-tmsgs =>
		if(t == nil || tagof t == tagof Tmsg.Readerror){
			leave();
			return;
		}
		{
			message(t);
		}exception e{
		"*" =>		# such as an exhausted heap: one request fails, not all of them
			sys->fprint(stderr, "llambofs: %s\n", e);
			srv.reply(ref Rmsg.Error(t.tag, e));
		}
	e := <-events =>
		{
			event(e);
		}exception ex{
		"*" =>
			sys->fprint(stderr, "llambofs: %s\n", ex);
			stop(e.job, ex);
		}
	}
}

# Nobody has the tree any more.  What still works has nobody to tell it to.
leave()
{
	for(; conversations != nil; conversations = tl conversations)
		stop((hd conversations).job, Estopped);
	pool.close();
	tree.quit();
	ctl := sys->open(sprint("#p/%d/ctl", sys->pctl(0, nil)), Sys->OWRITE);
	if(ctl != nil)
		sys->fprint(ctl, "killgrp");
}

message(t: ref Tmsg)
{
	pick m := t {
	Open =>
		fid := srv.open(m);
		if(fid != nil && (fid.qtype & Sys->QTDIR) == 0)
			opening(ref Open(m.fid, fid.uname, int fid.path & 16rFF, conversation(int (fid.path>>8)), nil, 0, 0, nil, big 0, 0, nil), m.mode);
	Read =>
		(fid, err) := srv.canread(m);
		if(fid == nil)
			fail(m, err);
		else if(fid.qtype & Sys->QTDIR)
			srv.read(m);
		else
			read(m, opened(m.fid));
	Write =>
		(fid, err) := srv.canwrite(m);
		if(fid == nil)
			fail(m, err);
		else
			write(m, opened(m.fid));
	Clunk =>
		o := opened(m.fid);
		srv.clunk(m);
		if(o != nil)
			close(o);
	Remove =>
		o := opened(m.fid);
		srv.remove(m);
		if(o != nil)
			close(o);
	Flush =>
		flush(m.oldtag);
		srv.reply(ref Rmsg.Flush(m.tag));
	* =>
		srv.default(t);
	}
}

fail(t: ref Tmsg, err: string)
{
	srv.reply(ref Rmsg.Error(t.tag, err));
}

opened(fid: int): ref Open
{
	for(l := opens; l != nil; l = tl l)
		if((hd l).fid == fid)
			return hd l;
	return nil;
}

conversation(id: int): ref Conversation
{
	for(l := conversations; l != nil; l = tl l)
		if((hd l).id == id)
			return hd l;
	return nil;
}

opening(o: ref Open, mode: int)
{
	opens = o :: opens;
	if(o.c != nil && mode & Sys->OTRUNC)
		case o.kind {
		Qsystem =>
			o.c.chat.system = nil;
		Qprefill =>
			o.c.prefill = nil;
		}
	if(o.c == nil || o.kind != Qask && o.kind != Qprompt && o.kind != Qstream)
		return;
	settle(o.c, o);
	# Who is killed before the first read was a reader all the same.
	if((job := o.c.job) != nil && (mode & 3) == Sys->OREAD && (o.kind == job.kind || o.kind == Qstream)){
		o.job = job;
		job.readers = ref Fidnum(o.fid) :: job.readers;
	}
}

read(m: ref Tmsg.Read, o: ref Open)
{
	if(o.kind >= Qdir && (o.c == nil || conversation(o.c.id) == nil))
		return fail(m, Eclosed);
	case o.kind {
	Qask or Qprompt or Qstream =>
		settle(o.c, o);
		if(o.c.writer != nil && o.c.writer != o)
			waiting = (m, o) :: waiting;	# until the message is complete
		else{
			attend(m, o);
			readtext(m, o);
		}
	Qstatus or Qmodel or Qusage =>
		if(o.body == nil || m.offset == big 0)
			inquire(m, o, nil);
		else
			srv.reply(styxservers->readbytes(m, o.body));
	Qembed =>
		if(o.body == nil){
			o.base = m.offset;
			inquire(m, o, nil);
		}else
			reply(m, o);
	* =>
		if(o.body == nil || o.kind != Qnew && m.offset == big 0){
			(text, err) := contents(o);
			if(err != nil)
				return fail(m, err);
			o.body = array of byte text;
		}
		srv.reply(styxservers->readbytes(m, o.body));
	}
}

# What was written to the same open file stands before what is read.
reply(m: ref Tmsg.Read, o: ref Open)
{
	if(m.offset < o.base)
		o.base = big 0;
	m.offset -= o.base;
	srv.reply(styxservers->readbytes(m, o.body));
}

# The text of a file that needs no bridge.
contents(o: ref Open): (string, string)
{
	c := o.c;
	case o.kind {
	Qnew =>
		return create(o.user);
	Qsystem =>
		return (line(c.chat.system), nil);
	Qtemperature =>
		for(l := c.chat.fields; l != nil; l = tl l)
			if((hd l).t0 == "temperature")
				return ((hd l).t1 + "\n", nil);
		return ("default\n", nil);
	Qprefill =>
		return (line(c.prefill), nil);
	Qcontext =>
		return (c.chat.messages() + "\n", nil);
	}
	return (nil, styxservers->Eperm);
}

line(s: string): string
{
	if(s == nil || s[len s-1] == '\n')
		return s;
	return s + "\n";
}

create(owner: string): (string, string)
{
	if(len conversations >= maxconversations)
		return (nil, sprint("%d conversations are open: write close to the ctl of one", maxconversations));
	c := ref Conversation(nextid++, Chat.new(nil, nil), nil, nil, nil, nil, nil, nil, 0);
	conversations = c :: conversations;
	path := big c.id<<8;
	tree.create(big Qroot, dir(string c.id, path|big Qdir, 8r500, owner));
	for(i := len files-1; i >= 0; i--)
		tree.create(path|big Qdir, dir(files[i].name, path|big files[i].kind, files[i].mode, owner));
	return (string c.id + "\n", nil);
}

write(m: ref Tmsg.Write, o: ref Open)
{
	if(o.kind >= Qdir && (o.c == nil || conversation(o.c.id) == nil))
		return fail(m, Eclosed);
	if(o.size+len m.data > maxbytes){
		drop(o);
		resume(o.c);
		return fail(m, sprint("longer than %d bytes", maxbytes));
	}
	err: string;
	case o.kind {
	Qask or Qprompt =>
		settle(o.c, o);
		if(o.c.writer != nil && o.c.writer != o)
			err = Ewriting;
		else if(o.c.job != nil)
			err = Ebusy;
		else{
			o.c.writer = o;
			keep(o, m.data);
		}
	Qembed =>
		if(o.body != nil)
			(o.body, o.written, o.size) = (nil, nil, 0);
		keep(o, m.data);
	Qsystem =>
		keep(o, m.data);
		o.c.chat.system = chomp(written(o));
	Qprefill =>
		keep(o, m.data);
		o.c.prefill = chomp(written(o));
	Qtemperature or Qctl or Qmodel or Qrootctl =>
		keep(o, m.data);
		if(!o.short)
			break;		# the rest of the command follows
		text := chomp(written(o));
		drop(o);
		if(o.kind == Qmodel || o.kind == Qrootctl)
			return inquire(m, o, text);
		if(o.kind == Qtemperature)
			err = settemperature(o.c, text);
		else{
			settle(o.c, o);
			err = control(o.c, text);
		}
	* =>
		err = styxservers->Eperm;
	}
	if(err != nil)
		fail(m, err);
	else
		srv.reply(ref Rmsg.Write(m.tag, len m.data));
}

# What is written to one open file arrives in parts of the size of a message of Styx.
keep(o: ref Open, data: array of byte)
{
	o.written = data :: o.written;
	o.size += len data;
	o.short = len data < srv.iounit();
}

written(o: ref Open): string
{
	all := array[o.size] of byte;
	end := len all;
	for(l := o.written; l != nil; l = tl l){
		end -= len hd l;
		all[end:] = hd l;
	}
	return string all;
}

# The file that a message was written to may be closed a little later than the next
# one is used, since Inferno closes files when nobody refers to them any more.  So who
# wants the answer completes the message, unless its last part says that there is more.
settle(c: ref Conversation, o: ref Open)
{
	w := c.writer;
	if(w != nil && w != o && w.short)
		start(w);
}

drop(o: ref Open)
{
	o.written = nil;
	o.size = 0;
	if(o.c != nil && o.c.writer == o)
		o.c.writer = nil;
}

# Without the newline that echo adds.
chomp(s: string): string
{
	if(s != nil && s[len s-1] == '\n')
		return s[0:len s-1];
	return s;
}

close(o: ref Open)
{
	l: list of ref Open;
	for(; opens != nil; opens = tl opens)
		if(hd opens != o)
			l = hd opens :: l;
	opens = l;
	if(o.c != nil && o.c.writer == o)
		start(o);
	gone(o);
}

# A reader leaves; the last to leave ends the work that only readers want.
gone(o: ref Open)
{
	job := o.job;
	if(job == nil || job.readers == nil)
		return;
	job.readers = lists->delete(ref Fidnum(o.fid), job.readers);
	if(job.readers == nil)
		stop(job, Estopped);
}

Fidnum.eq(a, b: ref Fidnum): int
{
	return a.fid == b.fid;
}

# The client of this message wants no answer any more.
flush(tag: int)
{
	l: list of (ref Tmsg.Read, ref Open);
	reader: ref Open;
	for(; waiting != nil; waiting = tl waiting){
		(m, o) := hd waiting;
		if(m.tag == tag)
			reader = o;
		else
			l = (m, o) :: l;
	}
	waiting = l;
	if(reader != nil)
		gone(reader);
	for(o := opens; o != nil; o = tl o)
		if((job := (hd o).job) != nil)
			forget(job, tag);
	if(asking != nil)
		forget(asking, tag);
}

forget(job: ref Job, tag: int)
{
	l: list of ref Tmsg;
	for(t := job.tags; t != nil; t = tl t)
		if((hd t).tag != tag)
			l = hd t :: l;
	if(len l < len job.tags && l == nil && job != asking)
		stop(job, Estopped);
	job.tags = l;
}

#
# settings
#

settemperature(c: ref Conversation, s: string): string
{
	value := parse(s);
	if(s == "default" || s == nil)
		setfield(c, "temperature", nil);
	else if(value != nil && value.isnumber())
		setfield(c, "temperature", s);
	else
		return sprint("temperature is a number or default, not %q", s);
	return nil;
}

# A JSON value that takes up the whole text; nil if it is none.
parse(s: string): ref JValue
{
	in := bufio->aopen(array of byte s);
	(value, nil) := json->readjson(in);
	while((c := in.getc()) >= 0)
		if(!str->in(c, " \t\n"))
			return nil;
	return value;
}

# The value is JSON; nil leaves the field to the bridge.
setfield(c: ref Conversation, name, value: string)
{
	l: list of (string, string);
	for(f := c.chat.fields; f != nil; f = tl f)
		if((hd f).t0 != name)
			l = hd f :: l;
	if(value != nil)
		l = (name, value) :: l;
	c.chat.fields = l;
}

control(c: ref Conversation, command: string): string
{
	(verb, rest) := str->splitl(command, " \t");
	rest = str->drop(rest, " \t");
	if(verb == "set"){
		(name, text) := str->splitl(rest, " \t");
		text = str->drop(text, " \t");
		case name {
		"" =>
			return "set takes the name of a field and its value";
		"prompt" or "messages" or "stream" =>
			return name + " cannot be set: there is a file for it";
		}
		if(text != nil && parse(text) == nil)
			text = json->jvstring(text).text();
		setfield(c, name, text);
		return nil;
	}
	case command {
	"stop" =>
		stop(c.job, Estopped);
	"reset" =>
		stop(c.job, Estopped);
		c.chat.reset();
		c.tokens = 0;
	"close" =>
		remove(c);
	* =>
		return sprint("%q is no command: set NAME VALUE, stop, reset or close", command);
	}
	return nil;
}

remove(c: ref Conversation)
{
	stop(c.job, Eclosed);
	l: list of ref Conversation;
	for(; conversations != nil; conversations = tl conversations)
		if(hd conversations != c)
			l = hd conversations :: l;
	conversations = l;
	tree.remove((big c.id<<8)|big Qdir);
	for(o := opens; o != nil; o = tl o)
		if((hd o).c == c)
			drop(hd o);
	resume(c);
}

#
# texts that are generated
#

# Finds the text that this read is about; begins it if its message is written.
attend(m: ref Tmsg.Read, o: ref Open)
{
	c := o.c;
	if(c.writer == o){
		start(o);
		o.base = m.offset;
	}
	job := c.last;
	if(o.kind == Qask)
		job = c.asked;
	if(o.kind == Qprompt)
		job = c.prompted;
	# One who reads on stays with the text; at offset 0 or at its end a newer one begins.
	if(job != o.job && (o.job == nil || m.offset == big 0 || o.over)){
		gone(o);
		if(m.offset == big 0 || o.over)
			o.base = m.offset;
		o.job = job;
		o.over = 0;
	}
	if(o.job != nil && lists->find(ref Fidnum(o.fid), o.job.readers) == nil)
		o.job.readers = ref Fidnum(o.fid) :: o.job.readers;
}

readtext(m: ref Tmsg.Read, o: ref Open)
{
	job := o.job;
	if(job == nil){
		srv.reply(ref Rmsg.Read(m.tag, nil));
		return;
	}
	at := m.offset-o.base;
	if(at < big 0)
		at = big 0;
	size := job.n;
	if(o.kind == Qask)
		size += job.newline;
	if(!job.done && (o.kind == Qask || at >= big size)){
		waiting = (m, o) :: waiting;
		return;
	}
	if(job.err != nil && (o.kind == Qask || at >= big size)){
		o.over = 1;
		return fail(m, job.err);
	}
	end := at+big m.count;
	if(end > big size)
		end = big size;
	if(at > end)
		at = end;
	o.over = at == end;
	srv.reply(ref Rmsg.Read(m.tag, job.data[int at:int end]));
}

# Begins what the message of this file asks for.
start(o: ref Open)
{
	begin(o);
	resume(o.c);
}

begin(o: ref Open)
{
	c := o.c;
	text := written(o);
	drop(o);
	if(o.kind == Qask){
		text = chomp(text);
		if(str->drop(text, " \t\r\n") == nil)
			return;
	}
	if(text == nil || conversation(c.id) == nil)
		return;
	job := newjob(o.kind, c, text);
	job.chat = ref *c.chat;
	if(o.kind == Qask)
		c.asked = job;
	else
		c.prompted = job;
	c.last = job;
	o.job = job;
	o.over = 0;
	err := guide(job, c);
	if(err == nil && bytes(c)+len array of byte text > maxbytes)
		err = sprint("the conversation would be longer than %d bytes: write reset to ctl", maxbytes);
	if(err != nil)
		finish(job, err);
	else{
		c.job = job;
		spawn generate(job);
	}
}

newjob(kind: int, c: ref Conversation, text: string): ref Job
{
	return ref Job(kind, c, text, nil, nil, 0, 0, nil, array[256] of byte, 0, 0, nil, nil);
}

bytes(c: ref Conversation): int
{
	n := len array of byte c.chat.system;
	for(l := c.chat.turns; l != nil; l = tl l)
		n += len array of byte (hd l).text;
	return n;
}

# An answer that begins with the prefill is what a grammar can ask for.
guide(job: ref Job, c: ref Conversation): string
{
	if(c.prefill == nil || job.kind != Qask)
		return nil;
	for(l := c.chat.fields; l != nil; l = tl l)
		if((hd l).t0 == "grammar" || (hd l).t0 == "json_schema")
			return "prefill cannot be used together with " + (hd l).t0;
	quoted := "";
	for(i := 0; i < len c.prefill; i++)
		case ch := c.prefill[i] {
		'"' or '\\' =>
			quoted += sprint("\\%c", ch);
		'\n' =>
			quoted += "\\n";
		'\r' =>
			quoted += "\\r";
		'\t' =>
			quoted += "\\t";
		* =>
			quoted[len quoted] = ch;
		}
	grammar := "root ::= \"" + quoted + "\" [^\\x00]*";
	job.chat.fields = ("grammar", json->jvstring(grammar).text()) :: job.chat.fields;
	return nil;
}

# The work of a job, in a process of its own.
generate(job: ref Job)
{
	b := borrow(job);
	if(b == nil)
		return;
	(ok, nil, fields) := b.info();
	if(ok != LlamboFFI->DONE){
		err := sprint("%r");
		giveback(job, b);
		events <-= ref Event.Ended(job, err, nil, nil);
		return;
	}
	events <-= ref Event.Info(job, fields);
	pieces := chan of string;
	relayed := chan of int;
	spawn relay(job, pieces, relayed);
	text: string;
	answer: ref Answer;
	if(job.kind == Qask){
		job.chat.bridge = b;
		(ok, nil, text) = job.chat.ask_stream(job.text, pieces);
		answer = job.chat.answer;
	}else{
		object := "{\"prompt\":" + json->jvstring(job.text).text() + ",\"stream\":true";
		for(l := job.chat.fields; l != nil; l = tl l)
			object += "," + json->jvstring((hd l).t0).text() + ":" + (hd l).t1;
		(ok, nil, answer) = b.generate_stream(object + "}", pieces);
	}
	err := sprint("%r");
	<-relayed;
	if(ok == LlamboFFI->DONE)
		err = nil;
	giveback(job, b);
	events <-= ref Event.Ended(job, err, nil, answer);
}

relay(job: ref Job, pieces: chan of string, relayed: chan of int)
{
	while((s := <-pieces) != nil)
		events <-= ref Event.Piece(job, s);
	relayed <-= 1;
}

# A connection for a job; nil if there is none, or nobody wants the job any more.
borrow(job: ref Job): ref Bridge
{
	b := pool.acquire();
	err := sprint("%r");
	if(b != nil){
		job.bridge = b;
		if(!job.unwanted)
			return b;
		giveback(job, b);
		err = Estopped;
	}
	events <-= ref Event.Ended(job, err, nil, nil);
	return nil;
}

giveback(job: ref Job, b: ref Bridge)
{
	job.bridge = nil;
	b.disconnect();
	pool.release(b);
}

stop(job: ref Job, why: string)
{
	if(job == nil || job.done)
		return;
	job.unwanted = 1;
	b := job.bridge;
	if(b != nil)
		b.disconnect();
	finish(job, why);
}

# A job is over, its process perhaps not yet.
finish(job: ref Job, err: string)
{
	job.done = 1;
	job.err = err;
	if(job.c != nil && job.c.job == job)
		job.c.job = nil;
	for(; job.tags != nil; job.tags = tl job.tags)
		answer(hd job.tags, job);
	wake(job);
}

# Answers those reads of a text that can be answered now.
wake(job: ref Job)
{
	l := waiting;
	waiting = nil;
	for(; l != nil; l = tl l){
		(m, o) := hd l;
		if(o.job == job)
			readtext(m, o);
		else
			waiting = (m, o) :: waiting;
	}
}

# Takes up the reads that waited for a message to be complete.
resume(c: ref Conversation)
{
	if(c == nil || c.writer != nil)
		return;
	l := waiting;
	waiting = nil;
	for(; l != nil; l = tl l){
		(m, o) := hd l;
		if(o.c == c && (o.job == nil || o.job.done))
			read(m, o);
		else
			waiting = (m, o) :: waiting;
	}
}

#
# questions about the bridge
#

# Reads and writes that are answered when a bridge was asked; text is what was written.
inquire(t: ref Tmsg, o: ref Open, text: string)
{
	if(o.kind == Qrootctl || o.kind == Qembed){
		pick m := t {
		Write =>
			if(!writable || o.user != user)
				return fail(m, "permission denied: only who started llambofs, with -w, may do that");
			(verb, path) := str->splitl(text, " ");
			if(text != "free" && (verb != "load" || len path < 2))
				return fail(m, sprint("%q is no command: load PATH or free", text));
		Read =>
			if(o.size == 0){
				srv.reply(ref Rmsg.Read(t.tag, nil));
				return;
			}
			text = written(o);
		}
		job := newjob(o.kind, nil, text);
		job.tags = t :: nil;
		o.job = job;
		spawn work(job);
		return;
	}
	if(o.kind == Qusage && known("context_size") != "0"){
		pick m := t {
		Read =>
			o.body = array of byte usage(o.c);
			reply(m, o);
		}
		return;
	}
	if(asking == nil){
		asking = newjob(Qstatus, nil, nil);
		spawn work(asking);
	}
	asking.tags = t :: asking.tags;
	if(info != nil)
		spawn late(asking);
}

late(job: ref Job)
{
	sys->sleep(Patience);
	events <-= ref Event.Late(job);
}

# In a process of its own.
work(job: ref Job)
{
	b := borrow(job);
	if(b == nil)
		return;
	ok: int;
	data: string;
	case job.kind {
	Qstatus =>
		fields: list of (string, string);
		(ok, nil, fields) = b.info();
		if(ok == LlamboFFI->DONE)
			events <-= ref Event.Info(job, fields);
	Qembed =>
		numbers: array of real;
		(ok, nil, numbers) = b.embed(job.text);
		for(i := 0; i < len numbers; i++)
			data += sprint("%.9g\n", numbers[i]);
	Qrootctl =>
		if(job.text == "free")
			(ok, nil) = b.free_model();
		else
			(ok, nil) = b.load_model(job.text[len "load ":]);
	}
	err := sprint("%r");
	if(ok == LlamboFFI->DONE)
		err = nil;
	giveback(job, b);
	events <-= ref Event.Ended(job, err, data, nil);
}

# Answers a message that waited for this job.
answer(t: ref Tmsg, job: ref Job)
{
	if(job.err != nil)
		return fail(t, job.err);
	pick m := t {
	Read =>
		o := opened(m.fid);
		if(o == nil)
			return fail(t, styxservers->Ebadfid);
		case o.kind {
		Qembed =>
			o.body = job.data[0:job.n];
		Qmodel =>
			o.body = array of byte line(known("model"));
		Qusage =>
			o.body = array of byte usage(o.c);
		Qstatus =>
			s := "";
			for(l := info; l != nil; l = tl l)
				s += (hd l).t0 + " " + (hd l).t1 + "\n";
			if(!job.done)
				s += "busy true\n";
			o.body = array of byte s;
		}
		reply(m, o);
	Write =>
		o := opened(m.fid);
		if(o != nil && o.kind == Qmodel){
			name := chomp(string m.data);
			(nil, base) := str->splitr(known("model"), "/");
			if(name != known("model") && name != base)
				return fail(t, sprint("%s is not loaded, but %s", name, known("model")));
		}
		srv.reply(ref Rmsg.Write(t.tag, len m.data));
	}
}

usage(c: ref Conversation): string
{
	return sprint("%d/%s\n", c.tokens, known("context_size"));
}

# What INFO said under this name; "0" for numbers and nil for texts that it did not tell.
known(name: string): string
{
	for(l := info; l != nil; l = tl l)
		if((hd l).t0 == name)
			return (hd l).t1;
	if(name == "context_size")
		return "0";
	return nil;
}

event(e: ref Event)
{
	job := e.job;
	pick v := e {
	Info =>
		info = v.fields;
	Piece =>
		if(!job.done)
			more(job, array of byte v.text);
	Late =>
		if(job != asking)
			break;
		for(; job.tags != nil; job.tags = tl job.tags)
			answer(hd job.tags, job);
	Ended =>
		if(job == asking)
			asking = nil;
		if(job.done)
			break;
		if(v.data != nil)
			append(job, array of byte v.data);
		if(v.err == nil && job.c != nil)
			conclude(job, v.answer);
		finish(job, v.err);
	}
}

more(job: ref Job, piece: array of byte)
{
	if(job.n+len piece > maxbytes){
		stop(job, sprint("the text is longer than %d bytes", maxbytes));
		return;
	}
	append(job, piece);
	wake(job);
}

append(job: ref Job, piece: array of byte)
{
	if(job.n+len piece > len job.data){
		a := array[2*(job.n+len piece)] of byte;
		a[0:] = job.data[0:job.n];
		job.data = a;
	}
	job.data[job.n:] = piece;
	job.n += len piece;
}

# A text is complete: the conversation goes on from there.
conclude(job: ref Job, a: ref Answer)
{
	job.c.tokens = a.prompt_tokens+a.completion_tokens;
	if(job.kind != Qask)
		return;
	job.c.chat.turns = job.chat.turns;
	if(job.n > 0 && job.data[job.n-1] != byte '\n'){
		append(job, array of byte "\n");
		job.n--;
		job.newline = 1;
	}
}
