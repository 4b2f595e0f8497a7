#
# LlamboFFI: a llama.cpp model, reached through llama-cpp-bridge.  See llambo-ffi(2).
#
# Include sys.m and draw.m first.
#
LlamboFFI: module
{
	PATH:	con "/dis/lib/llambo-ffi.dis";

	SOCKET:	con "/tmp/llama-cpp-bridge.sock";	# on the host; what "" means, unless $LLAMA_CPP_BRIDGE_SOCKET is set
	MAXREPLY:	con 4*1024*1024;	# longest reply accepted, in bytes, unless Bridge.maxreply is set

	# The first value of every request's result.
	DONE:	con 1;		# the bridge said ok
	REFUSED:	con 0;	# the bridge said error; the message says why
	HUNGUP:	con -1;	# no answer came; the Bridge is closed, the message says why

	# A generated text, and what it took.
	Answer: adt {
		text:	string;
		finish_reason:	string;	# "stop", "length" or "context"
		prompt_tokens:	int;
		cached_tokens:	int;	# of prompt_tokens, those not evaluated again
		completion_tokens:	int;
		prompt_ms:	real;	# milliseconds
		completion_ms:	real;
		seed:	big;		# gives the same text again
	};

	# A connection.  Several processes may share one: requests take turns.
	Bridge: adt {
		addr:	string;		# as given to connect
		maxreply:	int;		# bytes
		code:	string;		# of the error that the last request got; nil after any other result

		connect:	fn(addr: string): ref Bridge;
		disconnect:	fn(b: self ref Bridge);
		connected:	fn(b: self ref Bridge): int;

		ping:	fn(b: self ref Bridge): int;
		get_status:	fn(b: self ref Bridge): (int, string);
		info:	fn(b: self ref Bridge): (int, string, list of (string, string));
		load_model:	fn(b: self ref Bridge, path: string): (int, string);
		free_model:	fn(b: self ref Bridge): (int, string);

		infer:	fn(b: self ref Bridge, prompt: string): (int, string, string);
		infer_stream:	fn(b: self ref Bridge, prompt: string, pieces: chan of string): (int, string, string);
		chat:	fn(b: self ref Bridge, message: string): (int, string, string);
		generate:	fn(b: self ref Bridge, object: string): (int, string, ref Answer);
		generate_stream:	fn(b: self ref Bridge, object: string, pieces: chan of string): (int, string, ref Answer);
		embed:	fn(b: self ref Bridge, text: string): (int, string, array of real);

		send_command:	fn(b: self ref Bridge, command: string): (int, string, string);
		request:	fn(b: self ref Bridge, command: string): (int, string, list of (string, string));

		# private to the module
		dfd:	ref Sys->FD;		# nil once closed
		wfd:	ref Sys->FD;		# the same as dfd, except for exec!
		cfd:	ref Sys->FD;		# control file of a network connection or a command
		stop:	string;			# what ends a blocked read, written to cfd
		complaints:	chan of string;	# what the command of exec! wrote to its standard error
		lock:	chan of int;		# full while a request is under way
		holder:	int;			# the process whose request that is; 0 if none
		stealing:	chan of int;	# full while the lock of a killed process is taken over
		closed:	int;
		used:	int;			# milliseconds: when the last reply came
		buf:	array of byte;
		rp, wp:	int;			# buf[rp:wp] is read and not yet used
	};

	# One turn of a conversation.
	Turn: adt {
		role:	string;	# "system", "user" or "assistant"
		text:	string;
	};

	# A conversation: what was said goes along with each question.
	Chat: adt {
		bridge:	ref Bridge;
		system:	string;		# what the model is told first; nil if nothing
		turns:	list of ref Turn;	# the oldest first
		fields:	list of (string, string);	# further fields of GENERATE: name, value in JSON
		answer:	ref Answer;		# the last one; nil if there was none

		new:	fn(b: ref Bridge, system: string): ref Chat;
		add:	fn(c: self ref Chat, role, text: string);
		ask:	fn(c: self ref Chat, text: string): (int, string, string);
		ask_stream:	fn(c: self ref Chat, text: string, pieces: chan of string): (int, string, string);
		reset:	fn(c: self ref Chat);
		messages:	fn(c: self ref Chat): string;	# the turns as a JSON array
	};

	# Connections to several bridges, lent out one by one.
	Pool: adt {
		keep:	int;		# whether connections that are not lent stay open

		new:	fn(addrs: list of string): ref Pool;
		acquire:	fn(p: self ref Pool): ref Bridge;
		release:	fn(p: self ref Pool, b: ref Bridge): int;
		close:	fn(p: self ref Pool);

		# private to the module
		slots:	array of ref Slot;
		turn:	chan of int;		# full while a process reads or changes what is here
		waiting:	list of chan of int;	# told of every change
		lendings:	int;		# how often a bridge was chosen
		closed:	int;
	};

	# An address of a Pool.
	Slot: adt {
		# private to the module
		addr:	string;
		bridge:	ref Bridge;		# nil where not connected
		state:	int;
		since:	int;			# milliseconds: when the state began
		turn:	int;			# Pool.lendings when it was last chosen
		failures:	int;			# how often no bridge answered, ever
		failed:	int;			# whether that was so the last time
		reason:	string;		# why
	};

	init:	fn(ctx: ref Draw->Context, args: list of string);
};
