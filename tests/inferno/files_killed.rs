//! Files of llambofs whose readers are killed, and whose bridge goes and comes back.

use std::net::TcpListener;
use std::path::Path;
use std::thread;

use super::emulator::{Inferno, Running};
use super::files::{bridge_with, expect_among_killed, expect_start, mount};
use super::module::{address, program};
use super::pool::{fifo, open};
use crate::harness::{Directory, Tiny, ok, process};

#[test]
fn a_killed_reader_stops_its_generation_and_frees_the_bridge() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    for file in ["ask", "stream"] {
        let home = Directory::new();
        let options = ["--ctx-size", "0", "--max-tokens", "-1"];
        let bridge = bridge_with(&home, &Tiny::endless(), &options);
        let mut running = kill_reader(
            &inferno,
            &home,
            &address(&bridge),
            ["a", file, "WAIT; cat $id/ask"],
        );
        process::wait_for_work(bridge.model_process(), 2);
        open(&home.join("gate"));
        expect_among_killed(&mut running, "killed");
        // It serves one client at a time.
        bridge.connect().exchange("PING", &ok("pong"));
        open(&home.join("gate"));
        expect_among_killed(&mut running, "cat: error reading 0/ask: stopped");
    }
}

#[test]
fn a_killed_reader_that_waits_for_a_busy_bridge_leaves_nothing_to_it() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = bridge_with(&home, &Tiny::alphabet(), &[]);
    let mut holder = bridge.connect();
    holder.exchange("PING", &ok("pong"));
    // The conversation takes another message once it has given up the first.
    let again = "while {! {echo u >$id/ask} >[2] /dev/null} {}
         echo asked; cat $id/ask $id/context";
    let commands = ["w", "ask", again];
    let mut running = kill_reader(&inferno, &home, &address(&bridge), commands);
    open(&home.join("gate"));
    expect_among_killed(&mut running, "killed");
    expect_among_killed(&mut running, "asked");
    holder.vanish();
    expect_among_killed(&mut running, "vwxyz");
    running.expect(r#"[{"role":"user","content":"u"},{"role":"assistant","content":"vwxyz"}]"#);
}

#[test]
fn a_killed_reader_stops_a_prompt_that_is_still_evaluated_over_a_network() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = bridge_with(&home, &Tiny::slow(), &["--ctx-size", "0"]);
    let port = relay(bridge.socket());
    let mut running = kill_reader(
        &inferno,
        &home,
        &format!("'tcp!127.0.0.1!{port}'"),
        [&"a".repeat(3000), "ask", "WAIT; cat $id/ask"],
    );
    process::wait_for_work(bridge.model_process(), 20);
    open(&home.join("gate"));
    expect_among_killed(&mut running, "killed");
    bridge.connect().exchange("PING", &ok("pong"));
    open(&home.join("gate"));
    expect_among_killed(&mut running, "cat: error reading 0/ask: stopped");
}

/// Asks this, kills a reader of this file of the conversation when the gate opens, and goes on
/// with these commands, in which `WAIT` waits for the gate once more.
fn kill_reader(
    inferno: &Inferno,
    home: &Directory,
    address: &str,
    [message, file, rest]: [&str; 3],
) -> Running {
    let gate = fifo(home);
    let mounted = mount(inferno, home, "", &[address]);
    inferno.compile(home, "-gw", &program("reader.b"));
    let wait = format!("cat '#U*{}' >/dev/null", gate.display());
    let rest = rest.replace("WAIT", &wait);
    let commands = format!(
        "load std
         id=`{{cat new}}
         echo {message} >$id/ask
         /dis/lib/reader.dis $id/{file} &
         reader=$apid
         {wait}
         echo kill >/prog/$reader/ctl
         echo killed
         {rest}"
    );
    let mut running = inferno.shell(home, &(mounted + &commands));
    running.expect("reading");
    running
}

/// Passes bytes between a port, which it tells, and a socket; it hangs up where the other does.
fn relay(socket: &Path) -> u16 {
    use std::io::copy;
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let socket = socket.to_path_buf();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let Ok(mut bridge) = UnixStream::connect(&socket) else {
                continue;
            };
            let mut replies = bridge.try_clone().expect("a connection can be shared");
            let mut reader = client.try_clone().expect("a connection can be shared");
            thread::spawn(move || {
                let _ = copy(&mut reader, &mut bridge);
                let _ = bridge.shutdown(Shutdown::Both);
            });
            thread::spawn(move || {
                let _ = copy(&mut replies, &mut client);
                let _ = client.shutdown(Shutdown::Both);
            });
        }
    });
    port
}

#[test]
fn files_of_a_bridge_that_is_not_there_answer_once_it_is_and_when_it_comes_back() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let home = Directory::new();
    let gate = fifo(&home);
    let mounted = mount(
        &inferno,
        &home,
        "",
        &[&format!("unix!{}", home.socket().display())],
    );
    let wait = format!("cat '#U*{}' >/dev/null", gate.display());
    let commands = format!(
        "id=`{{cat new}}
         echo w >$id/ask; cat $id/ask; cat status
         {wait}
         echo w >$id/ask; cat $id/ask
         {wait}
         echo set ignore_eos true >$id/ctl; echo set max_tokens -1 >$id/ctl
         echo w >$id/ask; echo asked; cat $id/ask
         {wait}
         echo set ignore_eos >$id/ctl; echo set max_tokens >$id/ctl
         echo u >$id/ask; cat $id/ask $id/context"
    );
    let mut running = inferno.shell(&home, &(mounted + &commands));
    let socket = home.socket().display().to_string();
    expect_start(
        &mut running,
        &format!("cat: error reading 0/ask: {socket}: '"),
    );
    expect_start(
        &mut running,
        &format!("cat: error reading status: {socket}: '"),
    );
    let mut bridge = bridge_with(&home, &Tiny::alphabet(), &[]);
    open(&gate);
    running.expect("xyz");
    process::signal(bridge.pid(), "KILL");
    bridge.wait();
    let options = ["--ctx-size", "0", "--max-tokens", "-1"];
    let mut bridge = bridge_with(&home, &Tiny::endless(), &options);
    open(&gate);
    running.expect("asked");
    process::wait_for_work(bridge.model_process(), 2);
    process::signal(bridge.pid(), "KILL");
    bridge.wait();
    running.expect(&format!(
        "cat: error reading 0/ask: unix!{socket}: the bridge hung up"
    ));
    let _bridge = bridge_with(&home, &Tiny::alphabet(), &[]);
    open(&gate);
    running.expect("vwxyz");
    running.expect(
        r#"[{"role":"user","content":"w"},{"role":"assistant","content":"xyz"},{"role":"user","content":"u"},{"role":"assistant","content":"vwxyz"}]"#,
    );
}
