<?php
// An endpoint on PHP's built-in server that says what it got: forms by PHP's own parser.
$type = $_SERVER['CONTENT_TYPE'];
if (str_starts_with($type, 'application/json')) {
    $data = json_decode(file_get_contents('php://input'), true);
    $recipients = $data['envelope']['recipients'];
    $content = implode('', array_map(fn ($attachment) => base64_decode($attachment['content']), $data['attachments']));
} elseif (str_starts_with($type, 'multipart/form-data')) {
    $recipients = $_POST['envelope']['recipients'];
    $content = $_POST['message'] ?? implode('', array_map('file_get_contents', $_FILES['attachments']['tmp_name'] ?? []));
} elseif (isset($_SERVER['HTTP_MAILSLUICE_RCPT_TO'])) {
    $recipients = explode(',', $_SERVER['HTTP_MAILSLUICE_RCPT_TO']);
    $content = file_get_contents('php://input');
} else {
    $recipients = [];
    $content = file_get_contents('php://input');
    while (str_starts_with($content, 'X-Original-To: ')) {
        [$line, $content] = explode("\r\n", $content, 2);
        $recipients[] = substr($line, strlen('X-Original-To: '));
    }
}
header('Content-Type: application/json');
echo json_encode(['recipients' => hash('sha256', implode("\n", $recipients)), 'content' => hash('sha256', $content)]);
